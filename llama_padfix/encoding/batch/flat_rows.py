"""Encoded rows one behind the other, as arrays: cut to size, joined with others, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_padfix.core.arrow import from_numpy
from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.encoding.encoded_rows import EncodedRow, find_ends, mark_spans, write_labels

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import BoolArray, IdArray, LongArray


@dataclass(frozen=True)
class FlatRows:
    """Encoded rows one behind the other, as arrays."""

    rows: LongArray
    """The number of each row among those that were to be encoded."""
    bounds: LongArray
    """Row `rows[n]` is at `bounds[n] : bounds[n + 1]`; one without tokens was dropped, since no trained turn fits."""
    input_ids: IdArray
    labels: IdArray
    lengths: LongArray
    """The number of tokens of each row before it was cut."""
    trained: int
    """The number of trained tokens of all rows."""

    @classmethod
    def empty(cls) -> FlatRows:
        """Return no rows."""
        import numpy as np

        none, no_ids = np.zeros(0, np.int64), np.zeros(0, np.int32)
        return cls(none, np.zeros(1, np.int64), no_ids, no_ids, none, trained=0)

    @property
    def sizes(self) -> LongArray:
        """The number of tokens of each row."""
        sizes: LongArray = self.bounds[1:] - self.bounds[:-1]
        return sizes

    def keep(self, chosen: BoolArray) -> FlatRows:
        """Return the chosen rows; no row that is left out may hold a token."""
        import numpy as np

        bounds = np.concatenate([[0], self.bounds[1:][chosen]])
        return replace(self, rows=self.rows[chosen], bounds=bounds, lengths=self.lengths[chosen])

    def insert(self, others: Mapping[int, EncodedRow]) -> FlatRows:
        """Return these rows and `others`, which are named by their numbers, in the order of their numbers.

        A row in pieces is a row for each, with the same number. `trained` does not count the others.
        """
        import numpy as np

        if not others:
            return self
        order = sorted(others)
        places = np.searchsorted(self.rows, order)
        cuts = self.bounds[places]
        added = [others[number] for number in order]
        pieces = [row.pieces or (len(row.input_ids),) for row in added]
        added_sizes = [size for row_sizes in pieces for size in row_sizes]
        counts = [*map(len, pieces)]
        places = np.repeat(places, counts)
        sizes = np.insert(self.sizes, places, added_sizes)
        return FlatRows(
            rows=np.insert(self.rows, places, np.repeat(order, counts)),
            bounds=np.concatenate([[0], np.cumsum(sizes)]),
            input_ids=_weave(self.input_ids, cuts, [np.asarray(row.input_ids, np.int32) for row in added]),
            labels=_weave(self.labels, cuts, [np.asarray(row.labels, np.int32) for row in added]),
            lengths=np.insert(self.lengths, places, added_sizes),
            trained=self.trained,
        )

    def join(self, other: FlatRows) -> FlatRows:
        """Return the rows of both in the order of their numbers, of which they share none."""
        import numpy as np

        if not len(other.rows) or not len(self.rows):
            return self if len(self.rows) else other
        both = FlatRows(
            rows=np.concatenate([self.rows, other.rows]),
            bounds=np.concatenate([self.bounds, other.bounds[1:] + len(self.input_ids)]),
            input_ids=np.concatenate([self.input_ids, other.input_ids]),
            labels=np.concatenate([self.labels, other.labels]),
            lengths=np.concatenate([self.lengths, other.lengths]),
            trained=self.trained + other.trained,
        )
        return both.take(np.argsort(both.rows, kind="stable"))

    def take(self, chosen: BoolArray | LongArray) -> FlatRows:
        """Return the chosen rows, in this order where they are chosen by their places."""
        import numpy as np

        sizes = self.sizes[chosen]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        places = np.arange(bounds[-1]) + np.repeat(self.bounds[:-1][chosen] - bounds[:-1], sizes)
        labels = self.labels[places]
        trained = int(np.count_nonzero(labels != IGNORE_INDEX))
        return FlatRows(self.rows[chosen], bounds, self.input_ids[places], labels, self.lengths[chosen], trained)

    def to_table(self, carried: pa.Table) -> pa.Table:
        """Return a `pyarrow.Table` over these arrays, without a copy of the ids.

        `carried` is a table with columns of all rows, of which these ones go along.
        """
        import numpy as np
        import pyarrow

        bounds = from_numpy(self.bounds.astype(np.int32))
        columns = {
            name: pyarrow.ListArray.from_arrays(bounds, from_numpy(values))
            for name, values in (("input_ids", self.input_ids), ("labels", self.labels))
        }
        kept = carried.take(from_numpy(self.rows)) if carried.column_names else carried
        return pyarrow.table({**columns, **{name: kept[name] for name in kept.column_names}})


@dataclass(frozen=True)
class Bulk:
    """What a batch encoder made of some rows, each by its number; rows that it does not take are in none of these."""

    flat: FlatRows
    noted: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """The notes on rows, without those on rows that were cut (see `EncodedRow`)."""
    long: Mapping[int, EncodedRow] = field(default_factory=dict)
    """Rows that are too long, and not cut yet."""
    firsts: Sequence[int] = ()
    """Rows of `flat` of kinds that were not compared with the row encoder's yet."""


def _weave(values: IdArray, cuts: LongArray, rows: Sequence[IdArray]) -> IdArray:
    """Return the values with a row inserted at each of the cuts."""
    import numpy as np

    parts = []
    for start, end, row in zip([0, *cuts], cuts, rows, strict=False):
        parts += [values[start:end], row]
    return np.concatenate([*parts, values[cuts[-1] :]])


def label_and_cut(
    rows: Sequence[int],
    ids: IdArray,
    edges: tuple[LongArray, LongArray],
    trained: tuple[LongArray, LongArray],
    proven: BoolArray,
    max_length: int | None,
    truncation: str,
) -> FlatRows:
    """Return joined rows with labels, cut as `fit_row` cuts one; those that are not proven are left out.

    `edges` are where the rows begin and end, `trained` where the trained spans do: none in a row that is left out.
    With `truncation="error"` rows that are too long are left out too.
    """
    import numpy as np

    (row_starts, row_ends), (first, last) = edges, trained
    kept_ends, whole = find_ends(row_starts, row_ends, first, last, max_length, truncation)
    left_out = ~proven if truncation != "error" else ~(proven & whole)
    labels = write_labels(ids, first, last, np.empty_like(ids))
    count = int((last - first).sum())
    if not whole.all() or left_out.any():
        kept_ends[left_out] = row_starts[left_out]
        kept = mark_spans(row_starts, kept_ends, len(ids))
        ids, labels = ids[kept], labels[kept]
        count = int(np.count_nonzero(labels != IGNORE_INDEX))
    bounds = np.concatenate([[0], np.cumsum((kept_ends - row_starts)[~left_out])])
    return FlatRows(np.asarray(rows)[~left_out], bounds, ids, labels, (row_ends - row_starts)[~left_out], count)
