"""The encoded rows of a chunk as messages of an Arrow stream, cut so that none holds many bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.arrow_stream import SINGLE, make_schema, pack_part

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np
    import pyarrow as pa

    EncodedPart: TypeAlias = tuple[bytes | memoryview, Counts | None]
    """A message, and with the last one of a chunk what became of the rows of the whole chunk."""

_PADDING = 32  # bytes of a message, and of each column: the digits of its place, buffers that are filled up to eight


def pack_parts(encoded: Iterable[tuple[pa.Table, Counts]], chunk: int, most: int) -> Iterator[EncodedPart]:
    """Yield the parts of a chunk as messages of at most `most` bytes, or of one row where that is more.

    `encoded` gives the chunk's rows piece by piece, with the counts of each. The parts depend on the rows alone, not
    on the pieces; one is yielded as soon as it is full, so that one piece and one part are in memory.
    """
    import pyarrow

    counts, place, rest = Counts(), 0, None
    for table, of_piece in encoded:
        counts = counts + of_piece
        cast = table.cast(make_schema(table.column_names))
        *full, rest = _cut(cast if rest is None else pyarrow.concat_tables([rest, cast]), most)
        for part in full:
            yield pack_part(part, chunk, place), None
            place += 1
    assert rest is not None  # a chunk has a row
    *full, last = _cut(rest, most, counts)
    for part in full:
        yield pack_part(part, chunk, place), None
        place += 1
    yield pack_part(last, chunk, place, counts), counts


def _cut(table: pa.Table, most: int, counts: Counts | None = None) -> list[pa.Table]:
    """Return a table in parts, each of as many rows as fit from its first one on; the last may have room left."""
    ends = _measure(table).cumsum()
    most -= len(pack_part(table.slice(0, 0), 0, 0, counts)) + _PADDING * (1 + table.num_columns)
    parts: list[pa.Table] = []
    start = 0
    while True:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(ends.searchsorted(before + most, "right")))
        if stop >= len(ends):
            return [*parts, table.slice(start)]
        parts.append(table.slice(start, stop - start))
        start = stop


def _measure(table: pa.Table) -> np.ndarray:
    """Return the bytes of each row."""
    import numpy as np
    import pyarrow.compute

    sizes = np.zeros(table.num_rows, np.int64)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in SINGLE:
            sizes += 8
        else:
            sizes += 4 + 4 * pyarrow.compute.list_value_length(column).fill_null(0).to_numpy()
    return sizes
