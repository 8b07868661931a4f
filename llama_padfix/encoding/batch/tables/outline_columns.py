"""The readings of the rows of an Arrow table, and their texts, without a Python object for each message.

Rows of one outline have equal codes: which values are null, how long the lists are, which texts are empty, what roles
and numbers say. So one row of each outline is read as Python values, and the texts of all are taken by their places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llama_padfix.core.arrow import from_texts, pick_rows, take, temporary_pool, to_numpy
from llama_padfix.encoding.batch.outlines import CALLS, SPOKEN, Reading, outline, read_outline
from llama_padfix.encoding.reading.side_columns import TEMPLATE_KWARGS, TOOLS

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import BoolArray, IdArray, LongArray

_READ_APART = frozenset({*TOOLS, TEMPLATE_KWARGS, *CALLS})
"""Columns and keys whose values are read row by row, unless they are null or an empty list."""


class _OddError(Exception):
    """A table that is read row by row."""


@dataclass
class _Column:
    """Where the texts of a column or field are."""

    level: int
    texts: int | None = None
    """The place of its texts among those of all columns; None where it holds none."""
    fields: dict[str, _Column] = field(default_factory=dict)
    items: _Column | None = None


@dataclass
class _Columns:
    """The columns of a table, level by level: the rows, and the items of each list."""

    odd: BoolArray
    """By row, whether it is read by itself."""
    bounds: list[LongArray]
    """By level, where the items of each row begin and end."""
    codes: list[list[IdArray]]
    """By level, what the items differ in."""
    texts: list[tuple[int, pa.Array]] = field(default_factory=list)
    """The texts of each column, with its level."""

    def read(self, values: pa.Array, name: str | None, level: int = 0) -> _Column:
        """Add a column, or the field `name` of another one."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        kind, made = values.type, _Column(level)
        valid = to_numpy(values.is_valid())
        if pa.types.is_null(kind) or not valid.any():
            return made
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = to_numpy(pc.list_value_length(values))
            self._tell_apart(level, np.where(valid, lengths + 1, 0))
            if name in _READ_APART:
                self._mark(level, lengths > 0)
                return made
            ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            self.bounds.append(ends[self.bounds[level]])
            self.codes.append([])
            made.items = self.read(values.flatten(), None, len(self.bounds) - 1)
        elif name in _READ_APART:
            self._mark(level, valid)
        elif pa.types.is_struct(kind):
            names = [kind.field(place).name for place in range(kind.num_fields)]
            if len({*names}) < len(names):
                raise _OddError
            self._tell_apart(level, valid)
            made.fields = {
                one: self.read(pc.struct_field(values, [place]), one, level) for place, one in enumerate(names)
            }
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            if name in SPOKEN:
                self._tell_apart(level, _number(values))
            else:
                filled = to_numpy(pc.binary_length(values)) > 0
                self._tell_apart(level, np.where(valid, filled, -1))
                made.texts = len(self.texts)
                self.texts.append((level, values.cast(pa.large_string())))
        elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            self._tell_apart(level, _number(values))
            if pa.types.is_floating(kind):
                self._mark(level, to_numpy(pc.is_nan(values)))
        else:
            raise _OddError
        return made

    def _mark(self, level: int, odd: BoolArray) -> None:
        self.odd |= any_within(odd, self.bounds[level])

    def _tell_apart(self, level: int, codes: Any) -> None:  # numbers of any dtype
        if len(codes) and (codes != codes[0]).any():
            self.codes[level].append(codes.astype("int32"))

    def find_kinds(self) -> tuple[IdArray, LongArray]:
        """Return the number of each row's kind, and the first row of each kind; rows of a kind have equal codes."""
        import numpy as np

        parts: list[list[bytes]] = []
        for bounds, codes in zip(self.bounds, self.codes, strict=True):
            if codes:
                packed = np.stack(codes, axis=1).tobytes()
                edges = (bounds * (4 * len(codes))).tolist()
                parts.append([packed[start:end] for start, end in pairwise(edges)])
        known: dict[object, int] = {}
        keys = zip(*parts, strict=True) if parts else [()] * len(self.odd)
        kinds = [known.setdefault(key, len(known)) for key in keys]
        numbers = np.asarray(kinds, np.int32)
        return numbers, np.unique(numbers, return_index=True)[1]


@dataclass(frozen=True)
class OutlinedRows:
    """The readings of rows, None for one that is `odd` or that reading leaves to the row encoder; see `Chats`."""

    readings: list[Reading | None]
    contents: pa.Array
    bounds: LongArray
    odd: BoolArray
    """Which rows have no outline here, and are read one by one."""


def read_outlined(table: pa.Table, to_rows: Callable[[pa.Table], Sequence[object]]) -> OutlinedRows | None:
    """Read the rows of a table by their outlines; None for a table that is read row by row.

    Each of its columns is one that reading looks at, and in one chunk. `to_rows` returns rows as Python values.
    """
    import numpy as np
    import pyarrow as pa

    count = table.num_rows
    columns = _Columns(np.zeros(count, bool), [np.arange(count + 1)], [[]])
    try:
        found = {name: columns.read(table[name].chunk(0), name) for name in table.column_names}
    except (_OddError, pa.ArrowException):
        return None
    columns.codes[0].append(columns.odd.astype(np.int32))
    kinds, firsts = columns.find_kinds()
    if not count or 2 * len(firsts) > count + 64:  # each is read as a row is
        return None
    known: list[Reading | None] = []
    orders: list[list[tuple[int, int]]] = []
    for row, is_odd in zip(to_rows(pick_rows(table, firsts.tolist())), columns.odd[firsts].tolist(), strict=True):
        outlined = None if is_odd else outline(row)
        reading = read_outline(outlined[0]) if outlined is not None else None
        places: list[tuple[int, int]] = []
        if reading is not None and isinstance(row, dict):
            for name, value in row.items():
                _list_texts(value, found[name], 0, [0] * len(columns.bounds), places)
        known.append(reading)
        orders.append(reading.order(places) if reading is not None else [])
    readings = [None if odd else known[kind] for kind, odd in zip(kinds.tolist(), columns.odd.tolist(), strict=True)]
    contents, bounds = _take_texts(columns, kinds, orders)
    if any(reading is not None and reading.joins for reading in known):
        contents, bounds = _join_texts(readings, contents, bounds)
    return OutlinedRows(readings, contents, bounds, columns.odd)


def _list_texts(value: object, column: _Column, at: int, begun: list[int], places: list[tuple[int, int]]) -> None:
    """Add where the texts of a value are, in the order of `outline`: whose they are, and which of the row's there.

    `at` is the place of the value among those of its level in the row, `begun` the number of items of each level.
    """
    if isinstance(value, str):
        if value and column.texts is not None:
            places.append((column.texts, at))
    elif isinstance(value, dict):
        for name, item in value.items():
            _list_texts(item, column.fields[name], at, begun, places)
    elif isinstance(value, list) and column.items is not None:
        level = column.items.level
        for item in value:
            begun[level] += 1
            _list_texts(item, column.items, begun[level] - 1, begun, places)


def _take_texts(
    columns: _Columns, kinds: IdArray, orders: Sequence[Sequence[tuple[int, int]]]
) -> tuple[pa.Array, LongArray]:
    """Return the texts of all rows, each row's in the order of its kind, and where those of each row begin and end."""
    import numpy as np
    import pyarrow as pa

    sizes = np.asarray([*map(len, orders)])
    begins = np.cumsum(sizes) - sizes
    counts = np.where(columns.odd, 0, sizes[kinds])
    bounds = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    if not bounds[-1]:
        return from_texts([]), bounds
    rows = np.repeat(np.arange(len(kinds)), counts)
    nth = begins[kinds][rows] + np.arange(len(rows)) - bounds[rows]
    owners, places = np.asarray([one for order in orders for one in order]).T
    owners, places = owners[nth], places[nth]
    used, before = list[pa.Array](), 0
    for owner, (level, texts) in enumerate(columns.texts):
        chosen = np.flatnonzero(owners == owner)
        if len(chosen):
            places[chosen] += columns.bounds[level][rows[chosen]] + before
            used.append(texts)
            before += len(texts)
    together = pa.concat_arrays(used, temporary_pool()) if len(used) > 1 else used[0]
    is_whole = len(places) == len(together) and bool((places == np.arange(len(places))).all())
    return together if is_whole else take(together, places), bounds


def _join_texts(
    readings: Sequence[Reading | None], contents: pa.Array, bounds: LongArray
) -> tuple[pa.Array, LongArray]:
    """Return the texts with those joined of which reading makes one."""
    import numpy as np

    texts, edges, placed, ends = contents.to_pylist(), bounds.tolist(), list[str](), [0]
    for reading, start, end in zip(readings, edges, edges[1:], strict=False):
        if reading is not None:
            placed += reading.place(texts[start:end]) if reading.joins else texts[start:end]
        ends.append(len(placed))
    return from_texts(placed), np.asarray(ends)


def _number(values: pa.Array) -> Any:  # an array of integers
    """Return numbers that are equal where values are."""
    import pyarrow.compute as pc

    return to_numpy(pc.dictionary_encode(values).indices, null=-1)


def any_within(flags: BoolArray, bounds: LongArray) -> BoolArray:
    """Return for each span of `bounds` whether a flag in it is set."""
    import numpy as np

    before = np.append(0, np.cumsum(flags))
    found: BoolArray = before[bounds[1:]] != before[bounds[:-1]]
    return found
