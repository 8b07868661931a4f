"""Texts longer than max_length: several rows, each token in one of them, counted, through every way in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest

from llama_padfix import ChatEncoder, PadfixError, diagnose, encode_dataset, prepare, view_mask
from llama_padfix.core.errors import IGNORE_INDEX
from tests.conftest import fresh_tokenizer
from tests.support.conversations import QUESTION, shared
from tests.support.small_llama import small_tokenizer

BOS, TEXT_END = 128000, 128001
LONG, SHORT = {"text": "word " * 1000}, {"text": "short"}
MIXED: list[Any] = [SHORT, {"messages": QUESTION}, LONG, {"messages": QUESTION}, LONG, SHORT]


def whole_ids(row: Any) -> Any:
    return ChatEncoder(shared("3.1-base"))(row)["input_ids"]


@pytest.mark.parametrize("truncation", ["turns", "split"])
@pytest.mark.parametrize("max_length", [3, 7, 256, 1000, 1001, 1002, 1003])
def test_every_token_is_in_one_piece(max_length: int, truncation: Any) -> None:
    encoder = ChatEncoder(shared("3.1-base"), max_length, truncation=truncation)
    made, ids = encoder([LONG]), whole_ids(LONG)
    sizes = [len(piece) for piece in made["input_ids"]]
    assert [token for piece in made["input_ids"] for token in piece] == ids
    assert len(sizes) == -(-len(ids) // max_length) and max(sizes) <= max_length and min(sizes) > 1
    assert sizes[:-2] == [max_length] * len(sizes[:-2])
    for piece, labels in zip(made["input_ids"], made["labels"], strict=True):
        assert labels == [IGNORE_INDEX, *piece[1:]]
    flat = [token for piece in made["input_ids"] for token in piece]
    assert (flat.count(BOS), flat.count(TEXT_END), flat[0], flat[-1]) == (1, 1, BOS, TEXT_END)
    counts, split = encoder.counts, len(sizes) > 1
    assert (counts.rows, counts.kept, counts.dropped, counts.cut) == (1, 1, 0, 0)
    assert (counts.split, counts.pieces) == (split, len(sizes) * split)
    assert (counts.tokens, counts.trained_tokens) == (len(ids), len(ids) - len(sizes))


def test_a_lone_last_token_is_never_a_piece() -> None:
    length = len(whole_ids(LONG))
    made = ChatEncoder(shared("3.1-base"), length - 1)([LONG])
    assert [len(piece) for piece in made["input_ids"]] == [length - 2, 2]


@pytest.mark.parametrize("truncation", ["tokens", "error"])
def test_other_truncations_do_not_split(truncation: Any) -> None:
    encoder = ChatEncoder(shared("3.1-base"), 256, truncation=truncation)
    if truncation == "error":
        with pytest.raises(PadfixError, match="more than max_length=256"):
            encoder([LONG])
        return
    assert [len(piece) for piece in encoder([LONG])["input_ids"]] == [256]
    assert (encoder.counts.cut, encoder.counts.pieces) == (1, 0)


def test_conversations_are_cut_behind_turns_all_the_same() -> None:
    tokenizer = shared("3.1-instruct")
    rows = [{"messages": QUESTION * 20}, {"text": tokenizer.apply_chat_template(QUESTION * 20, tokenize=False)}]
    expected = ChatEncoder(tokenizer, 100)(rows)
    encoder = ChatEncoder(tokenizer, 100, truncation="split")
    assert encoder(rows) == expected and (encoder.counts.cut, encoder.counts.split) == (2, 0)


def test_the_message_says_which_rows_and_why(caplog: pytest.LogCaptureFixture) -> None:
    prepared = prepare(fresh_tokenizer("3.1-instruct"), max_length=256)
    with caplog.at_level(logging.WARNING):
        encoded = prepared.encode([LONG] * 3 + [SHORT], progress=False)
    assert len(encoded) == 13
    assert "4 rows: 4 kept; 3 texts longer than max_length, split into 12 rows; 3012 tokens" in caplog.text
    assert "split: row 0 (1003 tokens into 4 pieces), row 1 (" in caplog.text


@pytest.mark.parametrize("kind", ["list", "dataset", "table", "stream", "map"])
def test_every_way_in_gives_the_same_pieces(kind: str) -> None:
    rows = (
        MIXED
        if kind == "list"
        else datasets.Dataset.from_list([{"messages": None, "text": None, **row} for row in MIXED])
    )
    encoder = ChatEncoder(shared("3.1-instruct"), 256)
    one = {"input_ids": [], "labels": []}  # type: dict[str, list[Any]]
    for row in MIXED:
        for name, column in ChatEncoder(shared("3.1-instruct"), 256)([row]).items():
            one[name] += column
    if kind == "table":
        made = encoder.encode_table(rows.data.table).to_pydict()  # type: ignore[union-attr]
    elif kind == "stream":
        stream = encode_dataset(encoder, rows.to_iterable_dataset())  # type: ignore[union-attr]
        read = list(stream)
        made = {name: [row[name] for row in read] for name in one}
    elif kind == "map":
        made = rows.map(encoder, batched=True, remove_columns=rows.column_names).to_dict()  # type: ignore[union-attr]
    else:
        made = encode_dataset(encoder, rows, progress=False).to_dict()
    assert made == one and len(one["labels"]) == 12
    if kind != "map":  # datasets calls a copy
        counts = encoder.counts
        assert (counts.rows, counts.kept, counts.split, counts.pieces) == (6, 6, 2, 8)


def test_an_id_goes_with_each_piece() -> None:
    table = pyarrow.table({"text": [SHORT["text"], LONG["text"], SHORT["text"]], "id": [10, 11, 12]})
    made = ChatEncoder(shared("3.1-base"), 256).encode_table(table, carry=["id"])
    assert made["id"].to_pylist() == [10, 11, 11, 11, 11, 12]


@pytest.mark.slow
def test_processes_a_cache_and_a_stopped_run_give_the_same(tmp_path: Path) -> None:
    rows = [{"text": f"{n} word " * (n % 31)} for n in range(1, 2600) if n % 31] + [{"text": ""}]
    settings: Any = {"max_length": 64}
    tokenizer = small_tokenizer(base=True)
    encoder = ChatEncoder(tokenizer, **settings)
    alone = encode_dataset(encoder, rows[:-1], progress=False)
    with pytest.raises(PadfixError, match="the text is empty"):
        encode_dataset(ChatEncoder(tokenizer, **settings), rows, progress=False, cache_dir=tmp_path)
    for number in range(2):
        other = ChatEncoder(tokenizer, **settings)
        made = encode_dataset(other, rows[:-1], progress=False, num_proc=2, cache_dir=tmp_path / str(number))
        assert made.to_dict() == alone.to_dict() and other.counts == encoder.counts
    again = ChatEncoder(tokenizer, **settings)
    assert len(encode_dataset(again, rows[:-1], progress=False, cache_dir=tmp_path / "0")) == len(alone)
    assert again.counts == encoder.counts and again.counts.pieces > again.counts.split > 0


def test_one_text_that_makes_several_rows_is_not_one_row() -> None:
    with pytest.raises(PadfixError, match=r"becomes 4 rows.*encoder\(\[row\]\).*encoder\.encode_rows\(\[row\]\)"):
        ChatEncoder(shared("3.1-base"), 256)(LONG)


def test_the_view_and_the_doctor_name_long_texts() -> None:
    tokenizer = fresh_tokenizer("3.1-base")
    shown = view_mask([LONG], tokenizer, encoder=ChatEncoder(tokenizer, 256)).to_text()
    assert "a text of 4 pieces" in shown
    tokenizer.model_max_length = 256
    [found] = [finding for finding in diagnose(tokenizer, dataset=[LONG, SHORT]).findings if finding.code == "DAT004"]
    assert "1 are texts" in found.message
