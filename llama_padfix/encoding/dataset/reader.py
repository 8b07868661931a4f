"""The rows of a dataset or sequence, chunk by chunk: as Arrow tables where Arrow holds them as they are."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.encoding.dataset.row_sequence import RowSequence
from llama_padfix.encoding.sources import rows_of

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

CHUNK_ROWS = 1000  # the borders are part of the encoded bytes, so they depend on nothing else
_PIECE_BYTES = 16 << 20  # of a chunk of long rows, encoded at once
_RESIDENT_BYTES = 16 << 20  # of mapped files, before they are mapped anew
_TOUCHED_BYTES = 256 << 10  # that the kernel maps for one row at a random place


class RowReader:
    """Reads a `datasets.Dataset`, a list or a `RowSequence`, in the format and order that the dataset shows.

    A dataset is read as Arrow, with its selected and shuffled rows and its shown columns; the rows of a transform, and
    those that have to be decoded, are read as Python values. `is_mapped` is True where the rows lie in files, so that
    another process reads them there and need not be sent them.
    """

    def __init__(self, dataset: datasets.Dataset | Sequence[object]) -> None:
        self._rows: Any = dataset  # a sequence, or a datasets.Dataset in another format
        self._as_table = self.is_mapped = False
        self._touched = 0
        if isinstance(dataset, Sequence):
            return
        columns = dataset.format["columns"]
        if dataset.format["type"] == "custom":
            return
        self._as_table = not any(_needs_decoding(dataset.features[name]) for name in columns)
        # Without the user's own format; a transform makes the rows, and stays.
        self._rows = dataset.with_format("arrow" if self._as_table else None, columns=columns)
        self.is_mapped = self._as_table and _is_mapped(dataset.data)
        if self.is_mapped:
            self._shuffled = dataset._indices is not None
            size = sum(Path(file["filename"]).stat().st_size for file in dataset.cache_files)
            # Mapping anew takes time that grows with the files, so the larger they are, the rarer it is.
            self._most = max(_RESIDENT_BYTES, size // (8 if self._shuffled else 32))
            self._touched = size  # the caller's own mapping would keep what is read through it

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> Any:  # a pa.Table or a list
        """Return the rows from `start` up to `stop`: a `pyarrow.Table`, or a list of rows.

        In a list the error stands in the place of a row that cannot be read.
        """
        if isinstance(self._rows, RowSequence):
            return self._rows.read_range(start, stop)
        if self.is_mapped and self._touched > self._most:
            # What was read through a mapping counts as this process's memory until it is closed.
            self._rows = pickle.loads(pickle.dumps(self._rows))
            self._touched = 0
        rows = self._rows[start:stop]
        if self.is_mapped:
            self._touched += rows.num_rows * _TOUCHED_BYTES if self._shuffled else rows.nbytes
        if self._as_table:
            return rows
        return list(rows) if isinstance(self._rows, (list, tuple)) else rows_of(rows)


def tabulate(rows: Sequence[Any]) -> Any:  # Any: what a user passes; a pa.Table or None
    """Return rows as a `pyarrow.Table` that gives back exactly these rows; None where Arrow would change one.

    Arrow fills in keys that some messages lack, makes 1 beside 1.5 a float, and holds no lone surrogate.
    """
    import pyarrow

    try:
        [merged] = _shape_of_items(rows) or [None]
        if not isinstance(merged, _Struct) or not merged:
            return None
        # With its type: inferred, a struct's fields come in the order of the alphabet from some versions.
        return pyarrow.table(
            {name: pyarrow.array([row[name] for row in rows], _type_of(shape)) for name, shape in merged}
        )
    except (_MixedError, UnicodeEncodeError, OverflowError, RecursionError, pyarrow.ArrowInvalid):
        return None


def cut_table(table: pa.Table) -> list[pa.Table]:
    """Return a table in parts of so many rows that each is about 16 MB at most; most chunks are one part."""
    parts = min(table.num_rows, -(-table.nbytes // _PIECE_BYTES))
    step = -(-table.num_rows // max(parts, 1))
    return [table.slice(start, step) for start in range(0, table.num_rows, step)]


def cut_rows(rows: list[Any]) -> list[list[Any]]:
    """Return a list of rows in parts of about 16 MB of texts at most, as `cut_table` does a table."""
    parts: list[list[Any]] = [[]]
    size = 0
    for row in rows:
        try:
            more = _measure(row)
        except RecursionError:  # nested too deeply to be encoded
            more = 0
        if parts[-1] and size + more > _PIECE_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += more
    return parts


def _measure(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_measure, value.values()))
    return sum(map(_measure, value)) if isinstance(value, (list, tuple)) else 0


class _MixedError(Exception):
    """Values that no Arrow type holds as they are."""


class _Struct(tuple[tuple[str, "_Shape"], ...]):
    """The keys of a dict in their order, each with the shape of its value."""


class _List(tuple["_Shape", ...]):
    """The one shape that all items of a list have; none where it is empty."""


_Shape = type | _Struct | _List
"""What decides the Arrow type of a value; a type stands for a scalar."""

_SCALARS = frozenset((str, int, float, bool, type(None)))


def _shape_of(value: object) -> _Shape:
    if type(value) in _SCALARS:
        return type(value)
    if type(value) is dict:
        if not all(type(name) is str for name in value):
            raise _MixedError
        return _Struct([(name, _shape_of(item)) for name, item in value.items()])
    if type(value) is not list:
        raise _MixedError
    return _shape_of_items(value)


def _shape_of_items(items: Sequence[object]) -> _List:
    shapes: set[_Shape] = set()
    merged: _Shape = type(None)
    for shape in map(_shape_of, items):
        if shape not in shapes:
            shapes.add(shape)
            merged = _merge(merged, shape)
    return _List([merged] if shapes else [])


def _merge(one: _Shape, other: _Shape) -> _Shape:
    """Return the shape of values of either shape; a null is of any."""
    if one == other and type(one) is type(other):
        return one
    if one is type(None):
        return other
    if other is type(None):
        return one
    if isinstance(one, _List) and isinstance(other, _List):
        return _List([_merge(one[0], other[0])]) if one and other else one or other
    if isinstance(one, _Struct) and isinstance(other, _Struct) and [n for n, _ in one] == [n for n, _ in other]:
        return _Struct([(name, _merge(mine, theirs)) for (name, mine), (_, theirs) in zip(one, other, strict=True)])
    raise _MixedError


def _type_of(shape: _Shape) -> pa.DataType:
    import pyarrow

    if isinstance(shape, _Struct):
        return pyarrow.struct([(name, _type_of(item)) for name, item in shape])
    if isinstance(shape, _List):
        return pyarrow.list_(_type_of(shape[0]) if shape else pyarrow.null())
    names = {str: "string", int: "int64", float: "float64", bool: "bool"}
    return pyarrow.type_for_alias(names.get(shape, "null"))


def _needs_decoding(feature: Any) -> bool:  # of any type of datasets
    """Return True where Arrow does not hold the values themselves; `Json`, held as text, is decoded later."""
    from datasets.features.features import require_decoding

    inner = feature.values() if isinstance(feature, Mapping) else feature
    inner = [feature.feature] if hasattr(feature, "feature") else inner
    if isinstance(feature, Mapping | list | tuple) or hasattr(feature, "feature"):
        return any(map(_needs_decoding, inner))
    return type(feature).__name__ != "Json" and bool(require_decoding(feature))


def _is_mapped(table: datasets.table.Table) -> bool:
    from datasets.table import ConcatenationTable, MemoryMappedTable

    if isinstance(table, ConcatenationTable):
        return all(isinstance(block, MemoryMappedTable) for row in table.blocks for block in row)
    return isinstance(table, MemoryMappedTable)
