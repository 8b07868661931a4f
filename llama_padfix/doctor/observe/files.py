"""Files of rows, read row by row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.text import parse_json

if TYPE_CHECKING:
    import pyarrow as pa


def open_rows(path: str | Path) -> Sequence[object]:
    """Return the rows of a file; those of .jsonl and .parquet are read one by one, when they are indexed.

    Args:
        path: a file that ends in .jsonl, .ndjson, .json or .parquet.

    Raises:
        PadfixError: the file is missing, of another kind, empty or unreadable.
    """
    file = Path(path)
    readers: dict[str, Callable[[Path], Sequence[object]]] = {
        ".jsonl": _JsonLines,
        ".ndjson": _JsonLines,
        ".json": _read_json,
        ".parquet": _ParquetRows,
    }
    if not file.is_file():
        raise PadfixError(f"There is no file {str(path)!r}. Pass --data FILE.jsonl, .json or .parquet.")
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise PadfixError(f"{str(path)!r} is of no known kind. Pass a file that ends in {', '.join(readers)}.")
    rows = reader(file)
    if not len(rows):
        raise PadfixError(f"{str(path)!r} holds no rows.")
    return rows


def read_or_error(rows: Sequence[object], place: int) -> object:
    """Return one row, or the error that reading it raised: a line that is no JSON is one unreadable row."""
    try:
        return rows[place]
    except PadfixError as error:
        return error


class _NumberedRows(Sequence[object]):
    """Rows that are read by number, never by slices."""

    def read(self, place: int) -> object:
        """Return one row; `place` is below the length."""
        raise NotImplementedError

    def __getitem__(self, place: Any) -> Any:  # `Any`: `Sequence` also declares slices
        if place >= len(self):
            raise IndexError(place)  # which ends a loop over a sequence
        return self.read(place)


class _JsonLines(_NumberedRows):
    """The lines of a file by their offsets, so that a sample of a large one costs little memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._starts: list[int] = []
        offset = 0
        for line in self._file:
            if line.strip():
                self._starts.append(offset)
            offset += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, place: int) -> object:
        """Return what the line at that place holds."""
        self._file.seek(self._starts[place])
        line = self._file.readline()
        try:
            return parse_json(line)
        except ValueError as error:
            raise PadfixError(f"row {place}: the line is not valid JSON ({error}): {describe(line)}") from error

    @property
    def column_names(self) -> list[str]:
        """The columns of the first row that can be read."""
        rows = (read_or_error(self, place) for place in range(len(self)))
        return list(next((row for row in rows if isinstance(row, dict)), {}))


def _read_json(path: Path) -> Sequence[object]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        lines = _JsonLines(path)  # JSON lines are often saved as .json
        if len(lines) > 1 and isinstance(read_or_error(lines, 0), dict):
            return lines
        raise PadfixError(f"{str(path)!r} is not valid JSON: {error}.") from error
    if not isinstance(content, list):
        raise PadfixError(f"{str(path)!r} holds a {type(content).__name__}, not a list of rows.")
    return content


class _ParquetRows(_NumberedRows):
    """The rows of a parquet file; one row group is held at a time."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise PadfixError("Reading parquet needs pyarrow. Run: pip install pyarrow") from error
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow raises other errors for each broken part
            raise PadfixError(f"{str(path)!r} is not a parquet file: {error}.") from error
        self.column_names = list(self._file.schema_arrow.names)
        groups = range(self._file.num_row_groups)
        self._ends: list[int] = list(accumulate(self._file.metadata.row_group(group).num_rows for group in groups))
        self._held: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, place: int) -> object:
        """Return a row, from its row group, which is read unless it is the one that is held."""
        group = bisect_right(self._ends, place)
        if self._held is None or self._held[0] != group:
            self._held = group, self._file.read_row_group(group)
        table = self._held[1]
        return table.slice(place - (self._ends[group] - table.num_rows), 1).to_pylist()[0]
