"""Arrow arrays as numpy arrays and back: the values of pyarrow's own conversions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from llama_padfix.core.arrow import from_numpy, from_texts, pick_rows, to_numpy

KINDS = ["int32", "int64", "uint32", "float64"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nulls", [False, True])
def test_numbers_are_those_of_pyarrow(kind: str, nulls: bool) -> None:
    array = pa.array([None if nulls and n % 3 == 0 else n for n in range(40)], kind)
    for start, length in ((0, 40), (3, 9), (11, 0), (39, 1)):
        part = array.slice(start, length)
        found, expected = to_numpy(part, null=7), np.asarray([7 if v is None else v for v in part.to_pylist()], kind)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("nulls", [False, True])
def test_booleans_are_those_of_pyarrow(nulls: bool) -> None:
    array = pa.array([None if nulls and n % 3 == 0 else n % 5 < 2 for n in range(80)])
    for start, length in ((0, 80), (3, 9), (8, 8), (13, 64), (11, 0), (79, 1)):
        part = array.slice(start, length)
        found = to_numpy(part)
        assert found.dtype == bool
        assert found.tolist() == [bool(value) for value in part.to_pylist()]
        assert to_numpy(part, null=True).tolist() == [value is not False for value in part.to_pylist()]


def test_arrays_without_a_buffer_are_nulls() -> None:
    assert to_numpy(pa.array([], "int32")).tolist() == []
    assert to_numpy(pa.nulls(3, "int32"), null=4).tolist() == [4, 4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_arrays_become_arrow_arrays_over_their_memory(kind: str) -> None:
    values = np.arange(20).astype(kind)
    assert from_numpy(values).equals(pa.array(values))
    assert from_numpy(values).buffers()[1].address == values.ctypes.data
    assert from_numpy(values[::2]).equals(pa.array(values[::2]))
    assert from_numpy(values[:0]).equals(pa.array([], kind))


def test_texts_become_an_arrow_array_of_strings() -> None:
    texts = ["a", "", "ж\0漢", "👍"]
    assert from_texts(texts).equals(pa.array(texts))
    assert from_texts([]).equals(pa.array([], "string"))


@pytest.mark.parametrize("count", [0, 1, 3, 150])
def test_rows_are_picked_in_any_order_few_or_many(count: int) -> None:
    rows = [{"a": [{"b": str(number), "c": None}], "d": number} for number in range(200)]
    table = pa.concat_tables([pa.Table.from_pylist(rows[:70]), pa.Table.from_pylist(rows[70:])]).slice(10)
    places = [(place * 77 + 75) % 190 for place in range(count)]
    assert pick_rows(table, places).to_pylist() == [rows[10 + place] for place in places]
    assert pick_rows(table, places).schema == table.schema
