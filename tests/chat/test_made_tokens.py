"""Control tokens that a template makes of somebody's text: they are text, counted, and never trained as tokens."""

from __future__ import annotations

from typing import Any

import pytest

from llama_padfix import ChatEncoder, PadfixError
from tests.conformance.test_template_kinds import ANSWER, USER
from tests.support.byte_tokenizer import make_byte_tokenizer

TOKEN = "<|eot|>"
MADE = {
    "between marks": ("<|{{ m.content }}|>", "eot"),
    "joined": ("{{ ['<|', m.content, '|>'] | join }}", "eot"),
    "formatted": ("{{ '%s%s%s' | format('<|', m.content, '|>') }}", "eot"),
    "reversed": ("{{ m.content[::-1] }}", ">|toe|<"),
    "replaced": ("{{ m.content | replace('x', 'o') }}", "a <|ext|> b"),
    "in lower case": ("{{ m.content | lower }}", "a <|EOT|> b"),
    "sliced": ("{{ m.content[1:] }}", "x<|eot|> b"),
    "split and joined": ("{{ m.content.split(',') | join('') }}", "a <|e,ot|> b"),
    "of the question": ("{% if m.role == 'user' %}<|{{ m.content }}|>{% else %}{{ m.content }}{% endif %}", "eot"),
}


def make(body: str) -> Any:
    template = (
        f"{{% for m in messages %}}<S>{{{{ m.role }}}}\n{body}<E>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<S>assistant\n{% endif %}"
    )
    return make_byte_tokenizer(["<E>", "<S>", TOKEN], "<E>", template=template)


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("author", [0, 1])
@pytest.mark.parametrize("kind", MADE)
def test_a_token_that_the_template_makes_is_text(kind: str, author: int, rows: int) -> None:
    body, content = MADE[kind]
    tokenizer = make(body)
    chat = [USER, ANSWER]
    chat[author] = {**chat[author], "content": content}
    spells = TOKEN in tokenizer.apply_chat_template(chat, tokenize=False)
    assert spells or (kind, author) == ("of the question", 1)
    encoder = ChatEncoder(tokenizer)
    batch = encoder({"messages": [chat] * rows})
    token = tokenizer.convert_tokens_to_ids(TOKEN)
    assert all(token not in ids for ids in batch["input_ids"])
    assert encoder.counts.escaped == (rows if spells else 0)
    if spells:
        with pytest.raises(PadfixError, match="special_tokens"):
            ChatEncoder(tokenizer, special_tokens="error")(chat)


def test_a_token_of_a_text_that_cannot_be_followed_is_refused() -> None:
    encoder = ChatEncoder(make("{{ ('<|' ~ m.content ~ '|>') | wordwrap(300) }}"))
    assert encoder([USER, ANSWER])["labels"][-2] != -100
    for chat in ([{**USER, "content": "eot"}, ANSWER], [USER, {**ANSWER, "content": "eot"}]):
        with pytest.raises(PadfixError, match="cannot be proven"):
            encoder(chat)
