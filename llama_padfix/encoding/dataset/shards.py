"""Encoded rows as one file, or as a folder of files as `save_to_disk` writes it; a stopped run goes on in its file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.arrow_stream import COLUMNS, EncodedFile, make_features, read_counts
from llama_padfix.encoding.dataset.cache import name_temporary_file, set_aside
from llama_padfix.encoding.dataset.reader import CHUNK_ROWS
from llama_padfix.encoding.record import Encoding, write_encoding

if TYPE_CHECKING:
    from typing import TypeAlias

    import datasets
    import pyarrow as pa

    Writer: TypeAlias = "EncodedFile | EncodedShards"

_STATE = "state.json"  # written last: with it, the folder is whole


class EncodedShards:
    """Writes chunks as `EncodedFile` does, into files of at most `most` bytes, or of one chunk where that is more."""

    def __init__(
        self, path: Path, most: int, expected: Callable[[int], int], encoding: Encoding, columns: Sequence[str]
    ) -> None:
        self.path = path / _STATE
        self._folder, self._most, self._expected, self._encoding = path, most, expected, encoding
        self._columns = columns
        self._whole: list[Path] = []
        self._counts, self._chunks = Counts(), 0  # of the files that are whole
        path.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        while self._keep_whole(self._find_shard(len(self._whole))):
            pass
        while (shard := self._find_shard(len(self._whole))) is not None:  # damaged, or behind one that is
            set_aside(shard)
        self._file = self._open()

    @property
    def counts(self) -> Counts:
        """What became of the rows that the folder holds so far."""
        return self._counts + self._file.counts

    @property
    def chunks(self) -> int:
        """How many chunks the folder holds so far."""
        return self._chunks + self._file.chunks

    def append(self, message: bytes | memoryview, counts: Counts) -> None:
        """Write what `pack_chunk` made of the next chunk, into the next file where this one is full."""
        if self._file.chunks and self._file.size + len(message) > self._most:
            self._end_file()
            self._file = self._open()
        self._file.append(message, counts)

    def clear(self) -> None:
        """Drop every chunk, and start again."""
        self._drop_files()
        self._whole, self._counts, self._chunks = [], Counts(), 0
        self._file = self._open()

    def finish(self) -> Path:
        """End the last file, name the files after their number, and describe the folder; return it."""
        import datasets

        if self._file.chunks:
            self._end_file()
        else:
            self._file.remove()
        names = [f"data-{place:05d}-of-{len(self._whole):05d}.arrow" for place in range(len(self._whole))]
        for shard, name in zip(self._whole, names, strict=True):
            shard.replace(self._folder / name)
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
        """Stop here; the chunks so far are kept for the next run."""
        self._file.close()

    def remove(self) -> None:
        """Stop here and keep nothing."""
        self._drop_files()
        shutil.rmtree(self._folder)  # with files that were set aside

    def _drop_files(self) -> None:
        self._file.remove()
        for shard in self._whole:
            shard.unlink()

    def _open(self) -> EncodedFile:
        first, path = self._chunks, self._folder / f"data-{len(self._whole):05d}.arrow"
        return EncodedFile(path, lambda chunk: self._expected(first + chunk), name_temporary_file, self._columns)

    def _end_file(self) -> None:
        self._file.finish()
        self._add(self._folder / f"data-{len(self._whole):05d}.arrow", self._file.counts, self._file.chunks)
        self._file.counts, self._file.chunks = Counts(), 0  # which are among the whole ones now

    def _add(self, shard: Path, counts: Counts, chunks: int) -> None:
        self._whole.append(shard)
        self._counts, self._chunks = self._counts + counts, self._chunks + chunks

    def _keep_whole(self, shard: Path | None) -> bool:
        """Take a file of an earlier run over; False where there is none, or one of other rows or damaged."""
        counts = read_counts(shard, self._columns) if shard is not None else None
        if shard is None or counts is None:
            return False
        chunks = -(-counts.rows // CHUNK_ROWS)
        if counts.rows != sum(map(self._expected, range(self._chunks, self._chunks + chunks))):
            return False
        self._add(shard, counts, chunks)
        return True

    def _find_shard(self, place: int) -> Path | None:
        """Return a file that was ended by an earlier run, whether or not it has its last name."""
        names = (f"data-{place:05d}.arrow", f"data-{place:05d}-of-[0-9]*.arrow")
        return next((path for name in names for path in self._folder.glob(name)), None)


def start_writing(
    path: Path | None,
    most: int | None,
    expected: Callable[[int], int],
    encoding: Encoding,
    columns: Sequence[str] = COLUMNS,
) -> Writer:
    """Return what chunks are appended to: a file or memory, or with `most` bytes a file a folder."""
    if path is not None and most is not None:
        return EncodedShards(path, most, expected, encoding, columns)
    return EncodedFile(path, expected, name_temporary_file, columns)


def read_written(path: Path, columns: Sequence[str] = COLUMNS) -> Counts | None:
    """Return the counts of a finished file or folder; None where there is none, or where it is damaged."""
    return _read_shards(path, columns) if path.is_dir() else read_counts(path, columns)


def _read_shards(folder: Path, columns: Sequence[str]) -> Counts | None:
    """Return the counts of a finished folder; None where there is none, or a file of it is missing or damaged."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        counts = [read_counts(folder / file["filename"], columns) for file in state["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    whole = [one for one in counts if one is not None]
    return sum(whole, Counts()) if len(whole) == len(counts) else None


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
