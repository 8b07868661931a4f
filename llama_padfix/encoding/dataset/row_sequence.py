"""Rows that are read by number, in constant memory: the base of rows from files, frames and tables."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError

if TYPE_CHECKING:
    import pyarrow as pa


class RowSequence(Sequence[object]):
    """Rows by number, never by slices. A row that cannot be read raises `PadfixError`."""

    @abstractmethod
    def read(self, place: int) -> object:
        """Return one row; `place` is below the length."""

    def read_range(self, start: int, stop: int) -> list[object] | pa.Table:
        """Return rows; in a list the error stands in the place of a row that cannot be read."""
        return [read_or_error(self, place) for place in range(start, stop)]

    def close(self) -> None:
        """Close the file that is held open; it is opened again when a row is read."""

    def __getitem__(self, place: Any) -> Any:  # `Any`: `Sequence` also declares slices
        if place >= len(self):
            raise IndexError(place)  # which ends a loop over a sequence
        return self.read(place)

    @property
    def column_names(self) -> list[str]:
        """The columns of the first row that can be read."""
        rows = (read_or_error(self, place) for place in range(len(self)))
        return list(next((row for row in rows if isinstance(row, Mapping)), {}))


def read_or_error(rows: Sequence[object], place: int) -> object:
    """Return one row, or the error that reading it raised: a line that is no JSON is one unreadable row."""
    try:
        return rows[place]
    except PadfixError as error:
        return error


class JoinedRows(RowSequence):
    """The rows of several sequences, one behind the other; a file is open while its rows are read."""

    def __init__(self, parts: Sequence[Sequence[object]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self._open = 0

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, place: int) -> object:
        """Return the row of the part that holds it."""
        [(part, first, _)] = self._find_parts(place, place + 1)
        return part[first]

    def read_range(self, start: int, stop: int) -> list[object] | pa.Table:
        """Return what the parts give: a table where they all do, and their columns are the same."""
        import pyarrow

        found: list[Any] = []  # a list or a table each
        for part, first, last in self._find_parts(start, stop):
            if isinstance(part, RowSequence):
                found.append(part.read_range(first, last))
            else:
                found.append(list(part[first:last]))
        if all(not isinstance(chunk, list) and chunk.schema.equals(found[0].schema) for chunk in found):
            return pyarrow.concat_tables(found)
        return [row for chunk in found for row in (chunk if isinstance(chunk, list) else chunk.to_pylist())]

    def _find_parts(self, start: int, stop: int) -> Iterator[tuple[Sequence[object], int, int]]:
        """Yield the parts that hold the rows, each with its own numbers of them."""
        while start < stop:
            number = bisect_right(self._ends, start)
            part, end = self._parts[number], self._ends[number]
            held = self._parts[self._open]
            if number != self._open and isinstance(held, RowSequence):
                held.close()
            self._open = number
            before = end - len(part)
            yield part, start - before, min(stop, end) - before
            start = min(stop, end)


class TableRows(RowSequence):
    """The rows of an Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.names = list(table.column_names)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def column_names(self) -> list[str]:
        """The columns of the table."""
        return self.names

    def read(self, place: int) -> object:
        """Return a row as Python values."""
        return self._table.slice(place, 1).to_pylist()[0]

    def read_range(self, start: int, stop: int) -> pa.Table:
        """Return a slice of the table."""
        return self._table.slice(start, stop - start)


class FrameRows(RowSequence):
    """The rows of a pandas or polars data frame, with its values as Python has them; a missing one is null."""

    def __init__(self, frame: Any) -> None:  # pandas.DataFrame or polars.DataFrame: neither is needed
        self._frame = frame

    def __len__(self) -> int:
        return len(self._frame)

    @property
    def column_names(self) -> list[str]:
        """The columns of the frame."""
        return list(self._frame.columns)

    def read(self, place: int) -> object:
        """Return a row as Python values."""
        return self.read_range(place, place + 1)[0]

    def read_range(self, start: int, stop: int) -> list[object]:
        """Return rows as Python values."""
        if hasattr(self._frame, "to_dicts"):  # polars
            return [*self._frame[start:stop].to_dicts()]
        part = self._frame.iloc[start:stop]
        columns = [
            [_to_python(value) if there else None for value, there in zip(part.iloc[:, at], present, strict=True)]
            for at, present in enumerate(part.notna().to_numpy().T)
        ]
        names = self.column_names
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


class IndexedRows(RowSequence):
    """The rows of a torch dataset, or of anything else with a length and rows by number."""

    def __init__(self, rows: Any) -> None:  # anything with a length and rows
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, place: int) -> object:
        """Return a row as the dataset gives it."""
        return self._rows[place]


def _to_python(value: Any) -> Any:  # a value of a frame; numpy's arrays and numbers have `tolist`
    return value.tolist() if hasattr(value, "tolist") else value
