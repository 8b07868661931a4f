"""Files of rows, read row by row: .jsonl, .json, .csv, .tsv and .parquet, compressed or not, and folders of them.

`datasets.load_dataset` does not take the place of this file: it copies every file into a cache, and its readers change
values (a text that looks like a date or a number becomes one, and missing keys become null).
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
import sys
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.core.text import parse_json
from llama_padfix.encoding.dataset.row_sequence import JoinedRows, RowSequence, read_or_error

if TYPE_CHECKING:
    import pyarrow as pa

_KINDS = ".jsonl, .ndjson, .json, .csv, .tsv or .parquet"
KINDS = f"{_KINDS}, also with .gz, or a folder of such files"
"""What is read, in a line."""
_COMPRESSED: Mapping[str, Callable[[Path], Any]] = MappingProxyType(
    {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
)
_OTHERS = MappingProxyType(
    {
        ".txt": "datasets.load_dataset('text', data_files={path!r}, split='train')",
        ".arrow": "datasets.Dataset.from_file({path!r})",
        ".feather": "pandas.read_feather({path!r})",
        ".xlsx": "pandas.read_excel({path!r})",
        ".pkl": "pandas.read_pickle({path!r})",
        ".zst": "datasets.load_dataset('json', data_files={path!r}, split='train')",
        ".zip": "datasets.load_dataset('json', data_files={path!r}, split='train')",
        ".tar": "datasets.load_dataset('webdataset', data_files={path!r}, split='train')",
    }
)
"""Kinds that are not read here, each with the call that reads it."""
_NO_ROWS = re.compile(r"[._].*|.*\.(md|crc|lock)|LICENSE|NOTICE|dataset_infos?\.json", re.IGNORECASE)
_SPLITS = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)


def open_rows(path: str | Path) -> Any:  # a sequence of rows; a DatasetDict of a folder that holds one
    """Return the rows of a file or folder, in the order of the files' names; most are read when they are indexed.

    Args:
        path: A file that ends in .jsonl, .ndjson, .json, .csv, .tsv or .parquet, or in one of these and .gz, .bz2 or
            .xz; or a folder of such files, or one that `save_to_disk` wrote.

    Returns:
        The rows. Those of .csv and .tsv are text, and null where the field is empty.

    Raises:
        PadfixError: The file is missing, of another kind, empty or unreadable.
    """
    place = Path(path).expanduser()
    try:
        is_folder, is_file = place.is_dir(), place.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a null
        is_folder = is_file = False
    if not is_folder and not is_file:
        raise PadfixError(_say_missing(str(path)))
    rows: Any = _open_folder(place) if is_folder else _open_file(place)  # or the splits of a saved DatasetDict
    if not len(rows):
        raise PadfixError(f"{str(path)!r} holds no rows.")
    return rows


def _say_missing(path: str) -> str:
    if re.match(r"\w+://", path):
        suffix = next((kind for kind in ("csv", "parquet") if f".{kind}" in path), "json")
        return (
            f"{path!r} is no file of this machine, and nothing is downloaded. Read it: "
            f"datasets.load_dataset({suffix!r}, data_files={path!r}, split='train')"
        )
    message = f"There is no file or folder {path!r}. Pass a file that ends in {_KINDS}, or a folder of them"
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) and Path(path).suffix.lower() not in (*_READERS, *_COMPRESSED):
        message += f"; of a dataset on the Hub: datasets.load_dataset({path!r}, split='train')"
    return message + "."


def _open_file(path: Path) -> Sequence[object]:
    kinds = [suffix.lower() for suffix in path.suffixes[-2:]]
    compressed = _COMPRESSED.get(kinds[-1]) if kinds else None
    kind = "".join(kinds[-2:-1] if compressed else kinds[-1:])
    reader = _READERS.get(kind)
    if reader is None or (compressed and kind == ".parquet"):
        call = _OTHERS.get(kinds[-1] if kinds else "")
        read = f" Read it: {call.format(path=str(path))}" if call else ""
        raise PadfixError(f"{str(path)!r} is of no kind that is read here. Pass a file that ends in {_KINDS}.{read}")
    try:
        return reader(path)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise PadfixError(f"{str(path)!r} cannot be read: {error}.") from error


def _open_folder(folder: Path) -> Any:  # rows, or the splits of a saved DatasetDict
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        import datasets

        return datasets.load_from_disk(str(folder))
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(_NO_ROWS.fullmatch(part) for part in file.relative_to(folder).parts)
    ]
    splits: dict[str, str] = {}
    for file in files:
        for split in _SPLITS.findall(file.relative_to(folder).as_posix()):
            splits.setdefault("train" if split.lower() == "train" else "other", split)
    if len(splits) > 1:
        raise PadfixError(
            f"{str(folder)!r} holds files of several splits ({', '.join(splits.values())}), which are not to be "
            "trained together. Pass the files or the folder of one split, or: "
            f"datasets.load_dataset({str(folder)!r})"
        )
    if not files:
        raise PadfixError(f"{str(folder)!r} holds no file of rows. Pass a folder of files that end in {_KINDS}.")
    return JoinedRows([_open_file(file) for file in files])


class _FileRows(RowSequence):
    """The rows of a text file by their offsets, so that a sample of a large one costs little memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._starts = array("q")
        with self._guarded():
            self._starts.extend(self._index(self._open()))
        self.close()

    def __len__(self) -> int:
        return len(self._starts)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_file": None}

    def close(self) -> None:
        """Close the file until a row is read."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, place: int) -> object:
        """Return the row that begins at that offset."""
        with self._guarded():
            file = self._open()
            file.seek(self._starts[place])
            return self._parse(file, place)

    @abstractmethod
    def _index(self, file: IO[bytes]) -> Iterator[int]:
        """Yield where each row begins."""

    @abstractmethod
    def _parse(self, file: IO[bytes], place: int) -> object:
        """Return the row at which the file stands."""

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = _COMPRESSED.get(self._path.suffix.lower(), Path.open)(self._path, "rb")
        return self._file

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise PadfixError(f"{str(self._path)!r} cannot be read to its end: {error}.") from error

    def _refuse(self, place: int, why: str) -> PadfixError:
        """Return the error of a row that cannot be read, with its line in the file."""
        file = self._open()
        file.seek(0)
        left, line = self._starts[place], 1
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            left -= len(block)
        return PadfixError(f"line {line} of {self._path.name} {why}")


class _JsonLines(_FileRows):
    """Lines of JSON."""

    def _index(self, file: IO[bytes]) -> Iterator[int]:
        offset = 0
        for line in file:
            if line.strip():
                yield offset
            offset += len(line)

    def _parse(self, file: IO[bytes], place: int) -> object:
        line = file.readline()
        try:
            return parse_json(line.decode("utf-8-sig"))
        except ValueError as error:
            raise self._refuse(place, f"is not valid JSON ({error}): {describe(line)}") from error


class _CsvRows(_FileRows):
    """Records of fields with a header, all of them text; an empty field is null."""

    def _index(self, file: IO[bytes]) -> Iterator[int]:
        self._names = next(self._records(file), [])
        if len(set(self._names)) < len(self._names):
            raise PadfixError(f"The header of {str(self._path)!r} names a column twice: {', '.join(self._names)}.")
        offset = self._offset
        file.seek(offset)
        try:
            for record in self._records(file, "latin-1"):  # any byte is a letter: what is no UTF-8 is one bad row
                if record:
                    yield offset
                offset = self._offset
        except csv.Error as error:
            self._starts.append(offset)
            raise self._refuse(len(self._starts) - 1, f"begins a record that does not end well ({error}).") from error

    def _parse(self, file: IO[bytes], place: int) -> object:
        try:
            fields = next(self._records(file))
        except UnicodeDecodeError as error:
            raise self._refuse(place, f"is not UTF-8 ({error})") from error
        if len(fields) != len(self._names):
            raise self._refuse(
                place, f"has {len(fields)} fields, and the header {len(self._names)}: {describe(fields)}"
            )
        return {name: field or None for name, field in zip(self._names, fields, strict=True)}

    def _records(self, file: IO[bytes], encoding: str = "utf-8") -> Iterator[list[str]]:
        """Yield records from where the file stands; `_offset` is where the next one begins."""
        self._offset = file.tell()

        def lines() -> Iterator[str]:
            while line := file.readline():
                start = self._offset == 0 and line.startswith(b"\xef\xbb\xbf")
                self._offset += len(line)
                yield line[3 * start :].decode(encoding)

        delimiter = "\t" if ".tsv" in self._path.suffixes[-2:] else ","
        records = csv.reader(lines(), delimiter=delimiter, strict=True)
        while True:
            most = csv.field_size_limit(sys.maxsize)  # of the process; a document may be longer
            try:
                record = next(records, None)
            finally:
                csv.field_size_limit(most)
            if record is None:
                return
            yield record


def _read_json(path: Path) -> Sequence[object]:
    try:
        with _COMPRESSED.get(path.suffix.lower(), Path.open)(path, "rb") as file:
            content = parse_json(file.read().decode("utf-8-sig"))
    except ValueError as error:
        lines = _JsonLines(path)  # JSON lines are often saved as .json
        if len(lines) > 1 and isinstance(read_or_error(lines, 0), dict):
            return lines
        raise PadfixError(f"{str(path)!r} is not valid JSON: {error}.") from error
    if isinstance(content, list):
        return content
    lists = [name for name, value in content.items() if isinstance(value, list)] if isinstance(content, dict) else []
    key = f"[{lists[0]!r}]" if lists else ""
    raise PadfixError(
        f"{str(path)!r} holds a {type(content).__name__}, not a list of rows. Pass the list: "
        f"json.load(open({str(path)!r})){key}"
    )


class _ParquetRows(RowSequence):
    """The rows of a parquet file; one row group is held at a time."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise PadfixError("Reading parquet needs pyarrow. Run: pip install pyarrow") from error
        self._path = path
        try:
            metadata, schema = parquet.read_metadata(path), parquet.read_schema(path)
        except Exception as error:  # pyarrow raises other errors for each broken part
            raise PadfixError(f"{str(path)!r} is not a parquet file: {error}.") from error
        self._names = list(schema.names)
        groups = range(metadata.num_row_groups)
        self._ends: list[int] = list(accumulate(metadata.row_group(group).num_rows for group in groups))
        self._held: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def column_names(self) -> list[str]:
        """The columns of the file."""
        return self._names

    def close(self) -> None:
        """Let go of the row group that is held."""
        self._held = None

    def read(self, place: int) -> object:
        """Return a row, from its row group, which is read unless it is the one that is held."""
        return self.read_range(place, place + 1).to_pylist()[0]

    def read_range(self, start: int, stop: int) -> pa.Table:
        """Return rows of the row groups that hold them."""
        import pyarrow

        parts = []
        while start < stop:
            group = bisect_right(self._ends, start)
            table = self._read_group(group)
            first = self._ends[group] - table.num_rows
            parts.append(table.slice(start - first, stop - start))
            start = self._ends[group]
        return pyarrow.concat_tables(parts)

    def _read_group(self, group: int) -> pa.Table:
        from pyarrow import parquet

        if self._held is None or self._held[0] != group:
            self._held = None
            with parquet.ParquetFile(self._path) as file:
                self._held = group, file.read_row_group(group)
        return self._held[1]


_READERS: Mapping[str, Callable[[Path], Sequence[object]]] = MappingProxyType(
    {
        ".jsonl": _JsonLines,
        ".ndjson": _JsonLines,
        ".json": _read_json,
        ".csv": _CsvRows,
        ".tsv": _CsvRows,
        ".parquet": _ParquetRows,
    }
)
