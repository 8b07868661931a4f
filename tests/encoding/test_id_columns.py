"""Columns of Arrow tables: numpy views where Arrow holds plain lists of numbers, Python values everywhere else."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from llama_padfix.encoding.id_columns import columns_of_table, rows_of_table

pyarrow = pytest.importorskip("pyarrow")

ROWS = [[5, 6, 7], [], [8], [9, 10]]
INT32 = pyarrow.list_(pyarrow.int32())


def table_of(values: list[Any], kind: Any) -> Any:
    return pyarrow.table({"ids": pyarrow.array(values, kind)})


WHOLE = table_of(ROWS, INT32)
TABLES = {
    "whole": WHOLE,
    "large list": table_of(ROWS, pyarrow.large_list(pyarrow.int64())),
    "a part": WHOLE.slice(2, 2),
    "chunks": pyarrow.concat_tables([WHOLE.slice(1), WHOLE.slice(0, 1), WHOLE]),
    "record batch": WHOLE.to_batches()[0],
    "part of a record batch": WHOLE.to_batches()[0].slice(1, 3),
    "no rows": WHOLE.slice(0, 0),
}


@pytest.mark.parametrize("form", TABLES)
def test_lists_of_numbers_are_views_into_the_table(form: str) -> None:
    table = TABLES[form]
    [(name, rows)] = columns_of_table(table, ["ids"]).items()
    assert name == "ids"
    assert [row.tolist() for row in rows] == table.column(0).to_pylist()
    kind = numpy.int64 if form == "large list" else numpy.int32
    buffers = [chunk.values.to_numpy() for chunk in getattr(table.column(0), "chunks", [table.column(0)])]
    for row in rows:
        assert row.dtype == kind and row.ndim == 1
        assert not len(row) or any(numpy.shares_memory(row, buffer) for buffer in buffers)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[1, 2], None], INT32),
        ([[1, None], [2]], INT32),
        ([[True], [False, True]], pyarrow.list_(pyarrow.bool_())),
        ([["a"], ["b", "c"]], pyarrow.list_(pyarrow.string())),
        ([[[1], [2, 3]], []], pyarrow.list_(INT32)),
        ([[1, 2], [3, 4]], pyarrow.list_(pyarrow.int32(), 2)),
        (["a", None], pyarrow.string()),
        ([1, 2], pyarrow.int64()),
    ],
    ids=str,
)
def test_all_else_comes_as_python_values(values: list[Any], kind: Any) -> None:
    assert columns_of_table(table_of(values, kind), ["ids"]) == {"ids": values}
    # A chunk alone may be plain; the column is then still of one kind.
    plain = [[1]] if kind == INT32 else values[:1]
    mixed = pyarrow.concat_tables([table_of(plain, kind), table_of(values, kind)])
    [rows] = columns_of_table(mixed, ["ids"]).values()
    assert rows == [*plain, *values] and numpy.ndarray not in map(type, rows)


def test_of_the_names_those_that_the_table_has() -> None:
    table = pyarrow.table({"text": ["a", "b"], "labels": [[-100], [4]], "input_ids": [[3], [4]]})
    columns = columns_of_table(table, ("input_ids", "attention_mask", "labels"))
    assert list(columns) == ["input_ids", "labels"]
    assert {name: [row.tolist() for row in rows] for name, rows in columns.items()} == {
        "input_ids": [[3], [4]],
        "labels": [[-100], [4]],
    }
    assert columns_of_table(table, ["position_ids"]) == {}


def test_rows_are_the_columns_side_by_side() -> None:
    table = pyarrow.table({"labels": [[-100, 4], [5]], "input_ids": [[3, 4], [5]], "name": ["a", None]})
    rows = rows_of_table(table, ("input_ids", "labels", "name"))
    assert [[(name, value if name == "name" else value.tolist()) for name, value in row.items()] for row in rows] == [
        [("input_ids", [3, 4]), ("labels", [-100, 4]), ("name", "a")],
        [("input_ids", [5]), ("labels", [5]), ("name", None)],
    ]
    assert rows_of_table(table, ["ids"]) == [{"labels": None, "input_ids": None, "name": None}] * 2, "who lacks what"
