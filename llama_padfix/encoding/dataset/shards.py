"""Encoded rows as one file, or as a folder of files as `save_to_disk` writes it; a stopped run goes on in its file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.arrow_stream import (
    COLUMNS,
    PART_BYTES,
    EncodedFile,
    Place,
    make_features,
    name_partial,
    read_counts,
    read_file,
)
from llama_padfix.encoding.dataset.cache import name_temporary_file, set_aside
from llama_padfix.encoding.record import Encoding, write_encoding

if TYPE_CHECKING:
    from typing import TypeAlias

    import datasets
    import pyarrow as pa

    Writer: TypeAlias = "EncodedFile | EncodedShards"

_STATE = "state.json"  # written last: with it, the folder is whole
_SHARD = re.compile(r"data-(\d{5,})(?:\.arrow|-of-\d{5,}\.arrow|(\.partial)\.arrow)")


class _Shard(NamedTuple):
    """A file that is whole: its path, the place of its first part, and the counts of the chunks that end in it."""

    path: Path
    first: Place
    counts: Counts


class EncodedShards:
    """Writes parts of chunks as `EncodedFile` does, into files of at most `most` bytes, or of one row above that."""

    def __init__(
        self, path: Path, most: int, expected: Callable[[int], int], encoding: Encoding, columns: Sequence[str]
    ) -> None:
        self.path = path / _STATE
        self._folder, self._most, self._expected, self._encoding = path, most, expected, encoding
        self._columns = columns
        self._whole: list[_Shard] = []
        path.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._file = self._open(self._keep_whole())
        while self._file.place.part:  # the last file ends inside a chunk, and the rest of that is not here
            self._file.remove()
            shard = self._whole.pop()
            shard.path.replace(name_partial(self._name(len(self._whole))))
            self._file = self._open(shard.first)
        self._counts = sum((shard.counts for shard in self._whole), Counts())

    @property
    def counts(self) -> Counts:
        """What became of the rows of the chunks that the folder holds so far."""
        return self._counts + self._file.counts

    @property
    def place(self) -> Place:
        """The place of the next part."""
        return self._file.place

    @property
    def part_bytes(self) -> int:
        """The most bytes of a part of several rows."""
        return min(PART_BYTES, self._most - self._file.least)

    def append(self, message: bytes | memoryview, counts: Counts | None) -> None:
        """Write what `pack_part` made of the next part, into the next file where this one is full."""
        if self._file.size > self._file.least and self._file.size + len(message) > self._most:
            self._end_file()
            self._file = self._open(self._file.place)
        self._file.append(message, counts)

    def clear(self) -> None:
        """Drop every part, and start again."""
        self._drop_files()
        self._whole, self._counts = [], Counts()
        self._file = self._open(Place())

    def finish(self) -> Path:
        """End the last file, name the files after their number, and describe the folder; return it."""
        import datasets

        if self._file.size > self._file.least:
            self._end_file()
        else:
            self._file.remove()
        names = [f"data-{place:05d}-of-{len(self._whole):05d}.arrow" for place in range(len(self._whole))]
        for shard, name in zip(self._whole, names, strict=True):
            shard.path.replace(self._folder / name)
        described = datasets.Dataset.from_dict({}, features=None)
        write_encoding(described, self._encoding)
        info = datasets.DatasetInfo(description=described.info.description, features=make_features(self._columns))
        info.write_to_directory(str(self._folder))
        state: dict[str, object] = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": self._folder.name.removeprefix("cache-"),
            **dict.fromkeys(("_format_columns", "_format_type", "_split")),
            "_format_kwargs": {},
            "_output_all_columns": False,
        }
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(state, indent=2, sort_keys=True), encoding="utf-8")
        unfinished.replace(self.path)
        return self._folder

    def close(self) -> None:
        """Stop here; the whole chunks so far are kept for the next run."""
        self._file.close()

    def remove(self) -> None:
        """Stop here and keep nothing."""
        self._drop_files()
        shutil.rmtree(self._folder)  # with files that were set aside

    def _drop_files(self) -> None:
        self._file.remove()
        for shard in self._whole:
            shard.path.unlink()

    def _name(self, number: int) -> Path:
        """Return the name of a file until the number of all is known."""
        return self._folder / f"data-{number:05d}.arrow"

    def _open(self, first: Place) -> EncodedFile:
        return EncodedFile(self._name(len(self._whole)), self._expected, name_temporary_file, self._columns, first)

    def _end_file(self) -> None:
        path, first, counts = self._name(len(self._whole)), self._file.first, self._file.counts
        self._file.finish()
        self._whole.append(_Shard(path, first, counts))
        self._counts = self._counts + counts
        self._file.counts = Counts()  # which are among the whole ones now

    def _keep_whole(self) -> Place:
        """Take the whole files of an earlier run over, and drop any behind a missing one; return the place behind."""
        shards, partials = dict[int, Path](), dict[int, Path]()
        for path in self._folder.iterdir():
            if named := _SHARD.fullmatch(path.name):
                (partials if named[2] else shards)[int(named[1])] = path
        behind = Place()
        while len(self._whole) in shards:
            path = shards.pop(len(self._whole))
            found = read_file(path, self._columns, behind)
            if found is None or found[0].rows != sum(map(self._expected, range(behind.chunk, found[1].chunk))):
                set_aside(path)
                break
            self._whole.append(_Shard(path, behind, found[0]))
            behind = found[1]
        partials.pop(len(self._whole), None)
        for path in (*shards.values(), *partials.values()):
            path.unlink()
        return behind


def start_writing(
    path: Path | None,
    most: int | None,
    expected: Callable[[int], int],
    encoding: Encoding,
    columns: Sequence[str] = COLUMNS,
) -> Writer:
    """Return what parts are appended to: a file or memory, or with `most` bytes a file a folder."""
    if path is not None and most is not None:
        return EncodedShards(path, most, expected, encoding, columns)
    return EncodedFile(path, expected, name_temporary_file, columns)


def read_written(path: Path, columns: Sequence[str] = COLUMNS) -> Counts | None:
    """Return the counts of a finished file or folder; None where there is none, or where it is damaged."""
    return _read_shards(path, columns) if path.is_dir() else read_counts(path, columns)


def _read_shards(folder: Path, columns: Sequence[str]) -> Counts | None:
    """Return the counts of a finished folder; None where there is none, or a file of it is missing or damaged."""
    counts, behind = Counts(), Place()
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        for file in state["_data_files"]:
            found = read_file(folder / file["filename"], columns, behind)
            if found is None:
                return None
            counts, behind = counts + found[0], found[1]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return counts if not behind.part else None


def open_encoded(written: Path | pa.Buffer, encoding: Encoding, columns: Sequence[str] = COLUMNS) -> datasets.Dataset:
    """Return what `EncodedFile.finish`, or that of shards, returned as a dataset, with the record of its encoding."""
    import datasets

    if isinstance(written, Path) and written.is_dir():
        return datasets.load_from_disk(str(written))  # which holds the record
    info = datasets.DatasetInfo(features=make_features(columns))
    if isinstance(written, Path):
        whole = datasets.Dataset.from_file(str(written), info=info)
    else:
        whole = datasets.Dataset.from_buffer(written, info=info)
    write_encoding(whole, encoding)
    return whole


def read_size(max_shard_size: int | str) -> int:
    """Return a size such as "500MB" in bytes, as `datasets` reads it.

    Raises:
        PadfixError: It is none.
    """
    from datasets.utils.py_utils import convert_file_size_to_int

    try:
        size = convert_file_size_to_int(max_shard_size)
    except (ValueError, TypeError, AttributeError):
        size = 0
    if isinstance(max_shard_size, bool) or size < 1:
        raise PadfixError(f'max_shard_size={max_shard_size!r} is no size of a file. Pass "500MB", or bytes as an int.')
    return int(size)
