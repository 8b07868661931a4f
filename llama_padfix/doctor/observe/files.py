"""Files of rows, read row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_padfix.core.errors import PadfixError, describe

__all__ = ["open_rows", "read_or_error"]


def open_rows(path: str | Path) -> Sequence[Any]:
    """Return the rows of a .jsonl, .json or .parquet file, each read when it is asked for.

    Raises `PadfixError` for a file that is not there, of another kind, empty or unreadable.
    """
    file = Path(path)
    readers = {".jsonl": _JsonLines, ".ndjson": _JsonLines, ".json": _read_json, ".parquet": _ParquetRows}
    if not file.is_file():
        raise PadfixError(f"There is no file {str(path)!r}. Pass --data FILE.jsonl, .json or .parquet.")
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise PadfixError(f"{str(path)!r} is of no known kind. Pass a file that ends in {', '.join(readers)}.")
    rows: Sequence[Any] = reader(file)
    if not len(rows):
        raise PadfixError(f"{str(path)!r} holds no rows.")
    return rows


def read_or_error(rows: Any, place: int) -> Any:
    """Return one row, or the error that reading it raised."""
    try:
        return rows[place]
    except PadfixError as error:  # a line that is no JSON is one bad row, not the end
        return error


class _JsonLines(Sequence[Any]):
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

    def __getitem__(self, place: Any) -> Any:
        if place >= len(self._starts):
            raise IndexError(place)  # what ends a loop over a sequence
        self._file.seek(self._starts[place])
        line = self._file.readline()
        try:
            return json.loads(line)
        except ValueError as error:
            raise PadfixError(f"row {place}: the line is not valid JSON ({error}): {describe(line)}") from error

    @property
    def column_names(self) -> list[str]:
        """The columns of the first row that can be read."""
        row = next(
            (row for row in (read_or_error(self, place) for place in range(len(self))) if isinstance(row, dict)), {}
        )
        return list(row)


def _read_json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        lines = _JsonLines(path)  # many tools call JSON lines .json
        if len(lines) > 1 and isinstance(read_or_error(lines, 0), dict):
            return lines
        raise PadfixError(f"{str(path)!r} is not valid JSON: {error}.") from error
    if not isinstance(content, list):
        raise PadfixError(f"{str(path)!r} holds a {type(content).__name__}, not a list of rows.")
    return content


class _ParquetRows(Sequence[Any]):
    """The rows of a parquet file; one row group is held at a time."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise PadfixError("Reading parquet needs pyarrow. Run: pip install pyarrow") from error
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow has its own kinds of error for each broken part
            raise PadfixError(f"{str(path)!r} is not a parquet file: {error}.") from error
        self.column_names = list(self._file.schema_arrow.names)
        self._ends: list[int] = []
        for group in range(self._file.num_row_groups):
            self._ends.append(self._file.metadata.row_group(group).num_rows + (self._ends[-1] if self._ends else 0))
        self._group: int | None = None
        self._table: Any = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: Any) -> Any:
        if place >= len(self):
            raise IndexError(place)
        group = next(number for number, end in enumerate(self._ends) if place < end)
        if group != self._group:
            self._group, self._table = group, self._file.read_row_group(group)
        start = self._ends[group] - self._table.num_rows
        return self._table.slice(place - start, 1).to_pylist()[0]
