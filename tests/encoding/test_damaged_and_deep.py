"""A cache file that a disk damaged is encoded again; a row that is nested too deeply is one row."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from llama_padfix import ChatEncoder, PadfixError
from llama_padfix.encoding.dataset.encode import encode_dataset
from llama_padfix.encoding.row_formats import read_row
from tests.support.small_llama import shared_small

ROWS = [
    {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}]}
    for n in range(1200)
]
LEVELS = 100_000


@pytest.fixture(scope="module")
def shared_tokenizer() -> Any:
    """A vocabulary of bytes: files and levels do not depend on it."""
    return shared_small()


def encode(tokenizer: Any, folder: Path) -> tuple[list[Any], ChatEncoder]:
    encoder = ChatEncoder(tokenizer, date="2024-07-26", max_length=512)
    return encode_dataset(encoder, ROWS, progress=False, cache_dir=folder).to_list(), encoder


@pytest.mark.slow
def test_a_damaged_cache_file_is_named_set_aside_and_encoded_again(
    shared_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    true, encoder = encode(shared_tokenizer, tmp_path)
    [path] = tmp_path.glob("cache-*.arrow")
    whole = path.read_bytes()
    counts = whole.index(b'{"rows": 1000')
    places = [5, len(whole) // 20, counts + 11, len(whole) // 2, len(whole) - 300, len(whole) - 4]
    damaged = [whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :] for place in places]
    for content in (*damaged, whole[:-8], whole[:100], b"", whole + b"\0"):
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again, used = encode(shared_tokenizer, tmp_path)
        assert again == true and used.counts == encoder.counts
        assert path.read_bytes() == whole
        assert (tmp_path / f"{path.name}.damaged").read_bytes() == content
        assert str(path) in caplog.text and "was damaged after it was written" in caplog.text
    caplog.clear()
    assert encode(shared_tokenizer, tmp_path)[0] == true
    assert "damaged" not in caplog.text


def nest(levels: int, kind: str) -> Any:
    deep: Any = {}
    for _ in range(levels):
        deep = {"a": deep} if kind == "dict" else [deep]
    return deep


def row(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], **more}


def called(arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    return {"messages": messages}


def in_itself() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


DEEP: dict[str, Any] = {
    "tools": lambda: row(tools=[nest(LEVELS, "dict")]),
    "tools of 1,000 levels": lambda: row(tools=[nest(1000, "dict")]),
    "tools as text": lambda: row(tools="[" * LEVELS + "]" * LEVELS),
    "arguments": lambda: called(nest(LEVELS, "dict")),
    "content": lambda: {"messages": [{"role": "user", "content": nest(LEVELS, "list")}]},
    "messages": lambda: {"messages": nest(LEVELS, "list")},
    "a list that holds itself": lambda: row(tools=in_itself()),
    "a call as text": lambda: {"conversations": [{"from": "function_call", "value": '{"a":' * LEVELS + "}" * LEVELS}]},
}


@pytest.mark.parametrize("kind", DEEP)
def test_a_row_that_is_nested_too_deeply_is_counted_and_dropped(kind: str, shared_tokenizer: Any) -> None:
    deep = DEEP[kind]()
    for rows in ([row(), deep, row()], [row(), deep]):
        columns, counts = ChatEncoder(shared_tokenizer, on_error="drop").encode_rows(rows)
        assert (counts.rows, counts.kept, counts.dropped_invalid) == (len(rows), len(rows) - 1, 1)
        assert len(columns["input_ids"]) == len(rows) - 1
    with pytest.raises(PadfixError, match="row 7"):
        ChatEncoder(shared_tokenizer).encode_rows([deep], 7)


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.slow
def test_it_is_one_row_of_a_dataset_too(kind: str, shared_tokenizer: Any, tmp_path: Path) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    rows = [row(), DEEP[kind](), row()]
    assert len(encode_dataset(encoder, rows, progress=False, cache_dir=tmp_path)) == 2
    assert encoder.counts.dropped_invalid == 1
    assert len([*tmp_path.glob("cache-*.arrow")]) == 1
    again = ChatEncoder(shared_tokenizer, on_error="drop")
    encode_dataset(again, [row(), DEEP[kind](), row()], progress=False, cache_dir=tmp_path)
    assert again.counts == encoder.counts and len([*tmp_path.glob("cache-*.arrow")]) == 1


@pytest.mark.slow
def test_processes_that_cannot_be_sent_a_row_leave_it_to_the_parent(shared_tokenizer: Any, tmp_path: Path) -> None:
    encoder = ChatEncoder(shared_tokenizer, on_error="drop")
    rows = [*ROWS, row(tools=[nest(LEVELS, "dict")])]
    assert len(encode_dataset(encoder, rows, progress=False, num_proc=2)) == len(ROWS)


def test_rows_that_are_nested_as_real_ones_are_encoded(shared_tokenizer: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": nest(60, "dict")}}
    assert read_row(json.loads(json.dumps(row(tools=[tool])))).tools
