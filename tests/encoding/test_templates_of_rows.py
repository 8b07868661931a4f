"""The chat template of an encoder, in place of the tokenizer's, and the arguments of it that a row has for itself."""

from __future__ import annotations

from typing import Any

import pyarrow
import pytest

from llama_padfix import ChatEncoder, PadfixError, diagnose, encode_dataset, find_markers, mask_labels, read_encoding
from llama_padfix.encoding.record import Encoding
from tests.support.byte_tokenizer import make_byte_tokenizer

OWN = (
    "{% for m in messages %}<S>{{ m.role }}\n{{ m.content }}<E>\n{% endfor %}"
    "{% if add_generation_prompt %}<S>assistant\n{% endif %}"
)
OTHER = OWN.replace("<S>{{ m.role }}\n", "<S>{{ m.role }}: ").replace("<S>assistant\n", "<S>assistant: ")
# Qwen 3's way: an empty thought, in the prompt where thinking is switched off.
THINKING = (
    "{% for m in messages %}<S>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>"
    "\n\n{% endif %}{{ m.content }}<E>\n{% endfor %}{% if add_generation_prompt %}<S>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


def tokenizer_of(template: str | None) -> Any:
    return make_byte_tokenizer(("<S>", "<E>"), "<E>", template=template, soft=("<think>", "</think>"))


def trained(tokenizer: Any, row: Any) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != -100]))


@pytest.mark.parametrize("own", [OWN, None])
def test_a_template_takes_the_place_of_the_tokenizers_and_stays_in_the_record(own: str | None) -> None:
    tokenizer, other = tokenizer_of(own), tokenizer_of(OTHER)
    encoder = ChatEncoder(tokenizer, template=OTHER)
    row = encoder(CHAT)
    assert row == ChatEncoder(other)(CHAT) == ChatEncoder(tokenizer, template_kwargs={"chat_template": OTHER})(CHAT)
    assert trained(tokenizer, row) == "Yes<E>" and tokenizer.chat_template == own
    assert row["labels"] == mask_labels(row["input_ids"], find_markers(tokenizer, {"chat_template": OTHER}))
    text = other.apply_chat_template(CHAT, tokenize=False)
    assert encoder({"text": text})["labels"] == row["labels"]
    assert encoder({"prompt": "Hi", "completion": "Yes"}) == row

    record = Encoding.from_json(read_encoding(encode_dataset(encoder, [CHAT], progress=False)).to_json())
    assert ChatEncoder(tokenizer, **record.arguments())(CHAT) == row


def test_two_templates_and_one_that_is_no_text_are_refused() -> None:
    tokenizer = tokenizer_of(OWN)
    with pytest.raises(PadfixError, match="two different chat templates"):
        ChatEncoder(tokenizer, template=OTHER, template_kwargs={"chat_template": OWN})
    with pytest.raises(PadfixError, match="no source of a chat template"):
        ChatEncoder(tokenizer, template=tokenizer)


QUIET = {"enable_thinking": False}


@pytest.mark.parametrize("given", [QUIET, '{"enable_thinking": false}', {**QUIET, "builtin": None}])
def test_the_arguments_of_a_row_are_its_own(given: Any) -> None:
    tokenizer = tokenizer_of(THINKING)
    encoder = ChatEncoder(tokenizer)
    rows = [{"messages": CHAT}, {"messages": CHAT, "chat_template_kwargs": given}]
    rows = [*rows, {"messages": CHAT, "chat_template_kwargs": {}}] * 2
    loud, quiet = ChatEncoder(tokenizer)(CHAT), ChatEncoder(tokenizer, template_kwargs=QUIET)(CHAT)
    assert trained(tokenizer, loud) == "<think>\n\n</think>\n\nYes<E>" and trained(tokenizer, quiet) == "Yes<E>"
    columns, counts = encoder.encode_rows(rows)
    assert columns["labels"] == [loud["labels"], quiet["labels"], loud["labels"]] * 2
    assert not counts.unread_columns and counts.empty_reasoning == 4
    if isinstance(given, str):
        return
    table = pyarrow.Table.from_pylist(
        [{**row, "chat_template_kwargs": row.get("chat_template_kwargs")} for row in rows]
    )
    assert encoder.encode_table(table)["labels"].to_pylist() == columns["labels"]
    everywhere = ChatEncoder(tokenizer, template_kwargs={"enable_thinking": True})
    assert everywhere.encode_rows(rows)[0]["labels"] == columns["labels"]


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("quiet", "not a mapping"),
        ([1], "not a mapping"),
        ({"chat_template": OTHER}, "no argument of the template itself"),
        ({"tools": []}, "no argument of the template itself"),
    ],
)
def test_arguments_of_a_row_that_are_none_are_refused(given: Any, seen: str) -> None:
    with pytest.raises(PadfixError, match=f"row 0: .*{seen}"):
        ChatEncoder(tokenizer_of(OWN)).encode_rows([{"messages": CHAT, "chat_template_kwargs": given}])


def test_a_rendered_text_has_no_arguments_and_their_column_is_named_as_not_read() -> None:
    tokenizer = tokenizer_of(THINKING)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    _, counts = ChatEncoder(tokenizer).encode_rows([{"text": text, "chat_template_kwargs": QUIET}])
    assert counts.unread_columns == ("chat_template_kwargs",)


def test_data_without_thoughts_on_a_thinking_template_is_found() -> None:
    tokenizer = tokenizer_of(THINKING)
    thought = [CHAT[0], {"role": "assistant", "content": "<think></think>Yes"}]
    [finding] = [one for one in diagnose(tokenizer, dataset=[thought, CHAT, CHAT]).findings if one.code == "DAT007"]
    assert "2 of 3 rows" in finding.message and "row 1, message 1" in finding.message
    assert "enable_thinking" in finding.message
    assert "DAT007" in diagnose(tokenizer_of(OWN), dataset=[CHAT]).passed
