"""`continue_final_message` in `template_kwargs`: the last message is left open, and the model goes on."""

from __future__ import annotations

from typing import Any

import pytest

from llama_padfix import ChatEncoder, PadfixError
from tests.conformance.test_template_kinds import ANSWER, USER, show
from tests.support.byte_tokenizer import make_byte_tokenizer

CHATML = (
    "{% for m in messages %}<S>{{ m.role }}\n{{ m.content }}<E>\n{% endfor %}"
    "{% if add_generation_prompt %}<S>assistant\n{% endif %}"
)
OPEN = {"role": "assistant", "content": "The sky is "}


@pytest.fixture
def encoder() -> ChatEncoder:
    tokenizer = make_byte_tokenizer(["<S>", "<E>"], "<E>", template=CHATML)
    return ChatEncoder(tokenizer, template_kwargs={"continue_final_message": True})


def test_the_continuation_is_trained_without_a_stop_token(encoder: ChatEncoder) -> None:
    row = encoder([USER, ANSWER, USER, OPEN])
    assert show(encoder.tokenizer, row) == (
        "<S>user\nHi<E>\n<S>assistant\n«Yes<E>»\n<S>user\nHi<E>\n<S>assistant\n«The sky is »"
    )
    assert encoder.counts.unstopped == 1


@pytest.mark.parametrize("before", [[USER, ANSWER], [USER, ANSWER, USER]])
def test_nothing_of_an_empty_message_that_is_left_open_is_trained(before: list[dict[str, Any]]) -> None:
    template = CHATML.replace("m.content", "m.content | trim")
    tokenizer = make_byte_tokenizer(["<S>", "<E>"], "<E>", template=template)
    encoder = ChatEncoder(tokenizer, template_kwargs={"continue_final_message": True})
    row = encoder([*before, {**ANSWER, "content": ""}])
    assert show(tokenizer, row) == show(tokenizer, encoder([*before, OPEN])).replace("\n«The sky is»", "")


def test_the_ids_are_those_of_the_tokenizer_in_a_batch_too(encoder: ChatEncoder) -> None:
    tokenizer: Any = encoder.tokenizer
    chats = [[USER, OPEN], [USER, ANSWER, USER, OPEN]] * 3
    batch = encoder({"messages": chats})
    for chat, ids, labels in zip(chats, batch["input_ids"], batch["labels"], strict=True):
        text = tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode([label for label in labels if label != -100]).endswith("The sky is ")


@pytest.mark.parametrize("given", [{"add_generation_prompt": False}, {"tokenize": False}, {"tools": []}])
def test_what_the_encoder_passes_itself_is_refused_when_it_is_made(given: dict[str, Any]) -> None:
    tokenizer = make_byte_tokenizer(["<S>", "<E>"], "<E>", template=CHATML)
    with pytest.raises(PadfixError, match=f"{next(iter(given))}, which is no argument of the template.*Leave it out"):
        ChatEncoder(tokenizer, template_kwargs=given)
