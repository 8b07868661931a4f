"""Values that came through JSON, Arrow and numpy: the text that they were, or an error that names the place."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from llama_padfix import encode_dataset
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.encoding.row_formats import read_row
from tests.support.small_llama import shared_small

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def called(arguments: Any) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    return [USER, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "1"}, ANSWER]


def arguments_of(row: Any) -> Any:
    return (read_row(row).messages or [])[1]["tool_calls"][0]["function"]["arguments"]


def tool(**schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": schema}}}


# --- values that JSON does not know

ODD: dict[str, Any] = {
    "a datetime": datetime.datetime(2024, 5, 1),
    "a date": datetime.date(2024, 5, 1),
    "a time": datetime.time(12),
    "a number of money": decimal.Decimal("1.5"),
    "bytes": b"x",
    "a set": {1},
    "nan": float("nan"),
    "infinity": float("inf"),
    "nan of numpy": numpy.float32("nan"),
    "a date of numpy": numpy.datetime64("2024-05-01"),
    "an object": object(),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_value_that_json_does_not_know_is_refused_with_row_and_path(kind: str) -> None:
    encoder = ChatEncoder(shared_small())
    place = r"row 7: messages\[1\]\.tool_calls\[0\]\.function\.arguments\.a\[1\]\.b is .*, which JSON does not know"
    with pytest.raises(PadfixError, match=place):
        encoder.encode_rows([called({"a": [1, {"b": ODD[kind]}]})], 7)
    place = r"row 7: tools\[0\]\.function\.parameters\.properties\.at\.default is .*, which JSON does not know"
    with pytest.raises(PadfixError, match=place):
        encoder.encode_rows([{"messages": [USER, ANSWER], "tools": [tool(at={"default": ODD[kind]})]}], 7)


def test_values_of_numpy_are_those_of_json() -> None:
    given = {
        "a": numpy.int64(3),
        "b": numpy.array([1.5, 2]),
        "c": (1, "x"),
        "d": numpy.bool_(True),
        "e": numpy.str_("x"),
    }
    read = arguments_of(called(given))
    assert json.dumps(read) == '{"a": 3, "b": [1.5, 2.0], "c": [1, "x"], "d": true, "e": "x"}'


def load(tmp_path: Path, rows: Any) -> Any:
    datasets = pytest.importorskip("datasets", minversion="5")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))


def test_dates_that_a_reader_made_of_text_are_named_as_such(tmp_path: Path) -> None:
    loaded = load(tmp_path, [{"prompt": "When?", "completion": f"2024-05-0{day}"} for day in (1, 2)])
    said = r"completion is datetime .*2024, 5, 1.*a date that a reader made of text: load_dataset\('json'\) does"
    with pytest.raises(PadfixError, match=said):
        encode_dataset(ChatEncoder(shared_small()), loaded, progress=False)
    rows = [{"messages": called({"day": f"2024-05-0{day}"})} for day in (1, 2)]
    filled = [{"messages": [{"tool_calls": None, **m} for m in row["messages"]]} for row in rows]
    with pytest.raises(PadfixError, match=r"row 0: messages\[1\].*\.arguments\.day is datetime .*load_dataset"):
        encode_dataset(ChatEncoder(shared_small()), load(tmp_path, filled), progress=False)


# --- nulls


def test_a_null_that_was_written_stays_and_one_that_may_be_filled_in_is_counted() -> None:
    written = called({"a": 1, "unit": None, "deep": {"x": None, "y": [None]}})
    assert arguments_of(written) == {"a": 1, "unit": None, "deep": {"x": None, "y": [None]}}
    filled = [{"tool_calls": None, **message} for message in written]
    assert arguments_of(filled) != arguments_of(written), "the keys are in another order in the second message"
    filled = pyarrow.array([filled]).to_pylist()[0]
    assert arguments_of(filled) == {"a": 1, "deep": {"y": [None]}}
    encoder = ChatEncoder(shared_small())
    _, counts = encoder.encode_rows([written, filled])
    assert (counts.nulls, counts.remarkable) == (1, False)
    assert counts.name_rows() == ["nulls: row 1 (messages[1].tool_calls[0].function.arguments.unit, and 1 more)"]


def test_nulls_of_schemas_stay_where_the_tools_are_no_structs_of_arrow() -> None:
    schemas = [tool(at={"default": None}), tool(to={"default": None})]
    assert read_row({"messages": [USER, ANSWER], "tools": schemas}).tools == schemas
    assert read_row({"messages": called({}), "tools": schemas[:1]}).tools == schemas[:1]
    assert read_row({"messages": [USER, ANSWER], "tools": json.dumps(schemas[:1])}).tools == schemas[:1]
    read = read_row({"messages": [USER, ANSWER], "tools": schemas[:1]})
    assert read.tools == [tool(at={})] and read.left_out == ("tools[0].function.parameters.properties.at.default",)


# --- columns of JSON text

PARTS = [{"role": "user", "content": [{"type": "text", "text": "yo"}]}, ANSWER]
JSON_ROWS: dict[str, list[Any]] = {
    "contents": [{"messages": [USER, ANSWER]}, {"messages": PARTS}, {"messages": [USER, ANSWER]}],
    "messages": [{"messages": called({"a": 1, "unit": None})}, {"messages": called({"b": [1], "day": "2024-05-01"})}],
    "tools": [
        {"messages": [USER, ANSWER], "tools": [tool(at={"type": "string", "default": None}), tool()]},
        {"messages": [USER, ANSWER], "tools": [tool(to={"type": "number"}), tool()]},
    ],
    "text": [{"text": "Hello"}, {"text": "7"}],
}


def whole(_: Path, loaded: Any) -> Any:
    return loaded.data.table


def parquet(tmp_path: Path, loaded: Any) -> Any:
    loaded.to_parquet(tmp_path / "rows.parquet")
    return pyarrow.parquet.read_table(tmp_path / "rows.parquet")


@pytest.mark.parametrize("kind", JSON_ROWS)
@pytest.mark.parametrize("read", [whole, parquet])
def test_columns_of_json_text_are_decoded(kind: str, read: Callable[[Path, Any], Any], tmp_path: Path) -> None:
    rows = JSON_ROWS[kind]
    loaded = load(tmp_path, rows)
    expected, _ = ChatEncoder(shared_small()).encode_rows(rows)
    table = read(tmp_path, loaded)
    made = ChatEncoder(shared_small()).encode_table(table).to_pydict()
    assert made == expected
    encoder = ChatEncoder(shared_small())
    for encoded in (
        encode_dataset(encoder, loaded, progress=False),
        encode_dataset(encoder, loaded.to_iterable_dataset().with_format("arrow")),
        loaded.with_format("arrow").map(encoder, batched=True, remove_columns=loaded.column_names),
        loaded.map(encoder, batched=True, remove_columns=loaded.column_names),
    ):
        assert [list(row["labels"]) for row in encoded.with_format(None)] == expected["labels"]


def test_a_column_of_json_text_in_which_a_null_was_written_keeps_it() -> None:
    arguments = pyarrow.array(['{"a": 1, "unit": null}'])
    kind = getattr(pyarrow, "json_", None)
    if kind is not None:
        arguments = pyarrow.ExtensionArray.from_storage(kind(), arguments)
    field = pyarrow.field("arguments", arguments.type, metadata={"ARROW:extension:name": "arrow.json"})
    function = pyarrow.StructArray.from_arrays(
        [pyarrow.array(["look"]), arguments], fields=[pyarrow.field("name", "string"), field]
    )
    call = pyarrow.StructArray.from_arrays([function], names=["function"])
    message = pyarrow.StructArray.from_arrays(
        [pyarrow.array(["assistant"]), pyarrow.array([""]), pyarrow.ListArray.from_arrays([0, 1], call)],
        names=["role", "content", "tool_calls"],
    )
    table = pyarrow.table({"messages": pyarrow.ListArray.from_arrays([0, 1], message)})
    encoder = ChatEncoder(shared_small())
    [row] = encoder.encode_table(table).to_pylist()
    assert '"unit": null' in encoder.tokenizer.decode(row["input_ids"]) and encoder.counts.nulls == 0
