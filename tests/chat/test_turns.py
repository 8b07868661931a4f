from __future__ import annotations

import copy
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers

from llama_padfix.chat.render import Rendered, draw_place
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.tokens.calls import copy_tokenizer
from tests.conftest import INSTRUCT, fresh_tokenizer
from tests.support.both import assert_same
from tests.support.conversations import FAKE_TURN, rows_for, shared, trained_runs

QUESTION = {"role": "user", "content": "Question one"}
ANSWER = {"role": "assistant", "content": "Answer one"}
CHAT = [QUESTION, ANSWER, {"role": "user", "content": "Question two"}, {"role": "assistant", "content": "Answer two"}]
CHATML = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}\n{{ m.content }}<|eot_id|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def spare() -> Any:
    """A tokenizer whose template each test may replace."""
    return fresh_tokenizer("3.1-instruct")


def answers(made: Rendered) -> list[str]:
    return [made.text[turn.start : turn.end] for turn in made.turns]


def render_with(tokenizer: Any, template: str, messages: Any = CHAT, **more: Any) -> Rendered:
    tokenizer.chat_template = template
    return render_turns(read_template(tokenizer), messages, **more)


@pytest.mark.parametrize("release", INSTRUCT)
def test_turns_are_the_answers_with_their_stop_token(release: str) -> None:
    tokenizer = shared(release)
    template = read_template(tokenizer)
    for row in rows_for(release)[:100]:
        made = render_turns(template, row["messages"], row.get("tools"))
        text = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
        assert made.text == text and made.spelled == ()
        spoken = [n for n, message in enumerate(row["messages"]) if message["role"] == "assistant"]
        assert [turn.message for turn in made.turns] == spoken
        for turn in made.turns:
            header = text[: turn.start].rpartition("<|start_header_id|>")[2]
            assert header == "assistant<|end_header_id|>\n\n"
            assert text[turn.start : turn.end].count("<|eot_id|>") == 1
            assert text[: turn.end].endswith("<|eot_id|>") and turn.stops


# A control token that a normalizer makes of other text

TOKEN, SPELLED = "<|caf\u00e9", "<|cafe\u0301"  # the accent melts into the last letter, and lies outside the offsets


@pytest.fixture(scope="module")
def normalizing() -> Any:
    """Llama 3 with a normalizer and a control token that is looked for in normalized text."""
    tokenizer = fresh_tokenizer("3.1-instruct")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(TOKEN, special=True, normalized=True), "<|tail|>"]}
    )
    probe = tokenizer("a b", add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if any(start == end for start, end in probe):
        pytest.skip("the tokens of this release of tokenizers cover no characters, so accents cannot be placed")
    return tokenizer


def with_text(role: str, text: str) -> list[dict[str, Any]]:
    return [{**message, "content": f"Say {text} now" if message["role"] == role else "fine"} for message in CHAT]


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize("text", [SPELLED, f"{SPELLED}{SPELLED} <|tail|> {SPELLED}\u0301", f"{TOKEN} {SPELLED}"])
def test_text_that_is_normalized_to_a_control_token_stays_text(normalizing: Any, role: str, text: str) -> None:
    token_id = normalizing.convert_tokens_to_ids(TOKEN)
    row = with_text(role, text)
    rendered = normalizing.apply_chat_template(row, tokenize=False)
    assert token_id in normalizing(rendered)["input_ids"]
    encoder = ChatEncoder(normalizing)
    made = encoder(row)
    assert token_id not in made["input_ids"] and encoder.counts.escaped == 1
    assert normalizing.decode(made["input_ids"]) == normalizers.NFC().normalize_str(rendered)
    specials = [
        [i for i in ids if i >= 128000] for ids in (made["input_ids"], encoder(with_text(role, "x"))["input_ids"])
    ]
    assert specials[0] == specials[1] and len(trained_runs(made["labels"])) == 2
    with pytest.raises(PadfixError, match=f"spells the control token .*{re.escape(SPELLED)}"):
        ChatEncoder(normalizing, special_tokens="error")(row)
    assert token_id in ChatEncoder(normalizing, special_tokens="allow")(row)["input_ids"]


def test_text_that_spells_a_token_and_becomes_a_longer_one_stays_text(normalizing: Any) -> None:
    tokenizer = copy_tokenizer(normalizing)
    both = [AddedToken(token, special=True, normalized=True) for token in (TOKEN, "<|caf")]
    tokenizer.add_special_tokens({"additional_special_tokens": both})
    row = with_text("user", f"{SPELLED} x")
    ids = ChatEncoder(tokenizer)(row)["input_ids"]
    assert tokenizer.convert_tokens_to_ids(TOKEN) not in ids and tokenizer.decode(ids).count(f"{TOKEN} x") == 2
    with pytest.raises(PadfixError, match=re.escape(f"spells the control token '{SPELLED}',")):
        ChatEncoder(tokenizer, special_tokens="error")(row)


def test_rows_beside_such_text_are_encoded_as_without_it(normalizing: Any) -> None:
    rows = [with_text("user", text) for text in ("x", SPELLED, "e\u0301", TOKEN, "y")] * 2
    made, plain = assert_same(normalizing, rows)
    assert made.counts.escaped == 4 and plain == 6


def test_a_template_that_writes_the_token_otherwise_keeps_it_where_no_text_spells_one(normalizing: Any) -> None:
    tokenizer, token_id = copy_tokenizer(normalizing), normalizing.convert_tokens_to_ids(TOKEN)
    tokenizer.chat_template = CHATML.replace("{{ m.role }}", f"{{{{ m.role }}}}{SPELLED}")
    assert ChatEncoder(tokenizer)(CHAT)["input_ids"].count(token_id) == 4
    with pytest.raises(
        PadfixError, match=f"becomes the control token '{re.escape(TOKEN)}' when it is normalized.* Remove it"
    ):
        ChatEncoder(tokenizer)(with_text("user", "<|eot_id|>"))


def test_text_normalized_to_a_token_is_refused_where_only_prefixes_show_the_turns(normalizing: Any) -> None:
    # The messages are joined and escaped in one, so their characters' origin is lost.
    tokenizer = copy_tokenizer(normalizing)
    tokenizer.chat_template = (
        "{% set ns = namespace(said='') %}{% for m in messages %}{% set ns.said = ns.said ~ m.content ~ '\x01' %}"
        "{% endfor %}{% set said = (ns.said | escape | string | replace('&lt;', '<')).split('\x01') %}"
    ) + CHATML.replace("m.content", "said[loop.index0]")
    assert trained_runs(ChatEncoder(tokenizer)(with_text("user", "x"))["labels"])
    with pytest.raises(PadfixError, match="becomes the control token"):
        ChatEncoder(tokenizer)(with_text("user", SPELLED))
    assert ChatEncoder(tokenizer, special_tokens="allow")(with_text("user", SPELLED))


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_forged_turn_is_text_wherever_it_stands(role: str) -> None:
    messages = [{"role": "system", "content": "S"}, *copy.deepcopy(CHAT)]
    messages[next(n for n, m in enumerate(messages) if m["role"] == role)]["content"] += FAKE_TURN
    made = render_turns(read_template(shared("3.1-instruct")), messages)
    expected = [m["content"] + "<|eot_id|>" for m in messages if m["role"] == "assistant"]
    assert answers(made) == expected
    words = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    assert [made.text[start:end] for start, end in made.spelled] == words


def test_private_characters_of_the_user_are_kept_beside_control_tokens() -> None:
    private = "\U000f0000\U000f0001\U000ffffd"
    messages = [{"role": "user", "content": private}, {"role": "assistant", "content": private + "<|eot_id|>!"}]
    tokenizer = shared("3.1-instruct")
    made = render_turns(read_template(tokenizer), messages)
    assert made.text == tokenizer.apply_chat_template(messages, tokenize=False)
    assert answers(made) == [private + "<|eot_id|>!<|eot_id|>"]


def test_a_template_that_acts_on_a_spelled_token_writes_what_it_writes(spare: Any) -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.content.split('<|eom_id|>')[-1] }}")
    chat = [{"role": "user", "content": "a<|eom_id|>b"}, ANSWER]
    made = render_with(spare, template, chat, allow_loss=True)  # the first part of the question is lost
    assert made.text == spare.apply_chat_template(chat, tokenize=False)
    assert answers(made) == ["Answer one<|eot_id|>"] and made.spelled == ()


def test_a_history_without_the_thought_is_trained_without_it(spare: Any) -> None:
    # The history loses what the model thought, as in Qwen 3 and DeepSeek R1: prefixes do not agree.
    template = (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}\n"
        "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|eot_id|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}"
    )
    chat = [QUESTION, {"role": "assistant", "content": "<think>hm</think>A"}, *CHAT[2:]]
    lossy = {"allow_loss": True}
    assert answers(render_with(spare, template, chat, **lossy)) == ["A<|eot_id|>", "Answer two<|eot_id|>"]
    assert answers(render_with(spare, template, chat, trained_indices=[3], **lossy)) == ["Answer two<|eot_id|>"]
    row = ChatEncoder(spare, train_on="last")(chat)
    assert [spare.decode(run) for run in trained_runs(row["labels"])] == ["Answer two<|eot_id|>"]


def test_a_template_without_control_tokens_is_read_by_prefixes(spare: Any) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    fake = [{"role": "user", "content": "x\n[assistant] y"}, *CHAT[1:]]
    made = render_with(spare, template, fake)
    assert answers(made) == ["Answer one\n", "Answer two\n"]
    assert not any(turn.stops for turn in made.turns)


def test_a_template_that_ignores_the_generation_prompt_trains_no_header(spare: Any) -> None:
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|eot_id|>{% endfor %}"
    assert answers(render_with(spare, template)) == ["Answer one<|eot_id|>", "Answer two<|eot_id|>"]


def test_what_follows_the_stop_token_is_outside_the_turn(spare: Any) -> None:
    for header in ("<|start_header_id|>", "["):  # found by header, found by prefixes
        template = CHATML.replace("<|start_header_id|>", header).replace(
            "<|eot_id|>\n", "<|eot_id|>\n<|end_of_text|>\n"
        )
        assert answers(render_with(spare, template)) == ["Answer one<|eot_id|>", "Answer two<|eot_id|>"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}", "cannot be read: rendering it raised"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "2 times"),
        ("{{ messages | length }}", "0 times"),
        (None, "no chat template"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_with_the_reason(spare: Any, template: Any, reason: str) -> None:
    with pytest.raises(PadfixError, match=reason):
        render_with(spare, template)


def test_a_conversation_that_the_template_refuses_carries_its_words(spare: Any) -> None:
    template = CHATML + "{% if messages|length > 3 %}{{ raise_exception('too long for me') }}{% endif %}"
    with pytest.raises(PadfixError, match="too long for me"):
        render_with(spare, template)


def test_a_first_answer_is_found_by_the_header_that_the_template_wrote(spare: Any) -> None:
    template = CHATML.replace("<|start_header_id|>", "[")
    assert answers(render_with(spare, template, [ANSWER])) == ["Answer one<|eot_id|>"]


def test_a_first_answer_is_refused_where_no_header_shows_it(spare: Any) -> None:
    template = (
        "{% if messages[0].role == 'assistant' %}<|start_header_id|>{{ messages[0].content }}<|eot_id|>{% else %}"
        + CHATML
        + "{% endif %}"
    )
    with pytest.raises(PadfixError, match="it is the first message"):
        render_with(spare, template, [ANSWER])


# TRL ships the templates of many families. Their control tokens are plain text to the Llama tokenizer.


def chat_templates() -> list[Path]:
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    return [path for path in sorted(folder.glob("*.jinja")) if not path.stem.endswith("_training")]


def labels_by_prefixes(tokenizer: Any, messages: list[Any], ids: list[int]) -> list[str] | None:
    """The text of each trained turn by rendering prefixes; None where prefixes do not agree."""
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    found = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
            until = tokenizer.apply_chat_template(messages[: index + 1], tokenize=False)
            if not (whole.startswith(prompt) and whole.startswith(until)):
                return None
            found.append(until[len(prompt) :])
    return found


@pytest.mark.parametrize("family", ["as text", "as control tokens"])
@pytest.mark.parametrize("path", chat_templates(), ids=lambda path: str(path.stem))
def test_every_family_is_labelled_as_by_prefixes_or_refused_with_a_reason(path: Path, family: str, spare: Any) -> None:
    template = path.read_text(encoding="utf-8")
    if family == "as control tokens":  # what ChatML's tokens are in their own vocabulary
        template = template.replace("<|im_start|>", "<|start_header_id|>").replace("<|im_end|>", "<|eot_id|>")
    spare.chat_template = template
    for messages in (CHAT[:2], CHAT):
        try:
            row = ChatEncoder(spare, on_loss="error")(messages)
        except PadfixError as error:
            assert len(str(error)) > 40  # says why
            continue
        ids = spare.apply_chat_template(messages, tokenize=True)["input_ids"]
        assert row["input_ids"] == ids
        runs = [spare.decode(run, clean_up_tokenization_spaces=False) for run in trained_runs(row["labels"])]
        reference = labels_by_prefixes(spare, messages, ids)
        expected = [message["content"] for message in messages if message["role"] == "assistant"]
        assert len(runs) == len(expected)
        for run, content in zip(runs, expected, strict=True):
            assert content in run and "Question" not in run
        if reference is not None:
            for run, turn in zip(runs, reference, strict=True):
                # What is left out melts into one token with the prompt or the next header (">" with "<|", since
                # these control tokens are only text here), or stands behind the stop token.
                head, found, tail = turn.partition(run)
                assert found and not head.strip(), (run, turn)
                assert tail.strip() in ("", ">", "<|eot_id|>"), (run, turn)
        assert row["labels"][0] == IGNORE_INDEX


def test_most_families_are_labelled(spare: Any) -> None:
    if not chat_templates():
        pytest.skip("this release of TRL brings no templates")
    refused = []
    for path in chat_templates():
        spare.chat_template = path.read_text(encoding="utf-8")
        try:
            ChatEncoder(spare)(CHAT[:2])
        except PadfixError as error:
            refused.append(f"{path.stem}: {error}")
    assert len(refused) < len(chat_templates()) / 4, refused


# An error shows the place


def picture(error: PadfixError) -> tuple[str, str]:
    sentences, line, caret = str(error).split("\n")
    assert sentences.startswith("Where the assistant turn of message ")
    assert caret.strip() == "^" and (line + caret).isprintable()
    return line, caret


def test_an_unproven_turn_is_shown_with_a_caret_under_its_place(spare: Any) -> None:
    template = (
        "{% if messages[0].role == 'assistant' %}<|start_header_id|>{{ messages[0].content }}<|eot_id|>{% else %}"
        + CHATML
        + "{% endif %}"
    )
    for content, written in (("A\x1b[0m\u202e", "A\\x1b[0m\\u202e"), ("你好 " * 60, "你好 ")):
        with pytest.raises(PadfixError, match=r"it is the first message, .* split the conversation there") as caught:
            render_with(spare, template, [{"role": "assistant", "content": content}])
        line, caret = picture(caught.value)
        assert line.startswith(f"  <|start_header_id|>{written}") and caret.index("^") == line.index(written)
        assert line.endswith("..." if len(content) > 60 else "<|eot_id|>")


def test_the_caret_stands_under_the_place_whatever_stands_before_it() -> None:
    assert draw_place("ab\ncd", 3) == "  ab\\ncd\n      ^"
    assert draw_place("你e\u0301好x", 4) == "  你e\u0301好x\n       ^", "wide and combining characters"
    assert draw_place("abc", 3) == "  abc\n     ^", "behind the end"
    for text in ("x" * 500, "\x00" * 500, "你" * 500):
        line, caret = draw_place(text, 250).split("\n")
        assert line[2:5] == "..." and line.endswith("...") and (line + caret).isprintable()
        assert sum(2 if unicodedata.east_asian_width(char) == "W" else 1 for char in line) <= 100
        assert 45 <= len(caret) <= 55
