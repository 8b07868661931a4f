"""Encoded rows as one Arrow stream that grows by whole chunks, each with its counts, and is continued after a stop."""

from __future__ import annotations

import io
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.core.compat import list_feature
from llama_padfix.encoding.counts import CountedRow, Counts

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

COLUMNS = ("input_ids", "labels")
SINGLE = {"label": "bool", "margin": "float64"}
"""The columns that hold one number of a row, and its type; every other holds a list of ids."""
_COUNTS, _CHECKSUM = b"llama_padfix.encoding.counts", b"llama_padfix.checksum"
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of an Arrow stream: a message without length
_IN_MEMORY = 64 << 20  # bytes


class EncodedFile:
    """Writes chunks of encoded rows in their order; `counts` is what became of the rows that it holds so far.

    With a `path`, chunks go to a file beside it, which takes that name when it is whole. What an earlier run left
    there is kept as far as it is valid: chunks of the `expected` numbers of rows, by their checksums. Without a
    path they are kept in memory, and above 64 MB in the file that `spill` names.
    """

    def __init__(
        self,
        path: Path | None,
        expected: Callable[[int], int],
        spill: Callable[[], Path],
        columns: Sequence[str] = COLUMNS,
    ) -> None:
        self.path = path
        self.counts = Counts()
        self.chunks = 0
        self._header = _encode_schema(path, columns)
        self._spill = spill
        self._stream: io.BytesIO | io.BufferedRandom = io.BytesIO()
        if path is None:
            self._stream.write(self._header)
            return
        partial = _partial(path)
        kept = self._read_partial(partial, expected)
        self._stream = partial.open("r+b" if partial.exists() else "w+b")
        self._stream.truncate(kept)
        self._stream.seek(kept)
        if not kept:
            self._stream.write(self._header)

    def _read_partial(self, partial: Path, expected: Callable[[int], int]) -> int:
        """Count the chunks that are whole, and return the length of the file up to there."""
        if not partial.exists():
            return 0
        with partial.open("rb") as file:
            if file.read(len(self._header)) != self._header:
                return 0
        kept = len(self._header)
        for counts, end in _read_chunks(partial):
            if counts.rows != expected(self.chunks):
                break
            self._add(counts)
            kept = end
        return kept

    @property
    def size(self) -> int:
        """The bytes that were written so far."""
        return self._stream.tell()

    def append(self, message: bytes | memoryview, counts: Counts) -> None:
        """Write what `pack_chunk` made of the next chunk."""
        self._stream.write(message)
        if isinstance(self._stream, io.BufferedRandom):
            self._stream.flush()  # so that it outlives this process
        elif self._stream.tell() > _IN_MEMORY:
            self.path = self._spill()
            file = _partial(self.path).open("w+b")
            file.write(self._stream.getbuffer())
            self._stream = file
        self._add(counts)

    def _add(self, counts: Counts) -> None:
        self.counts = self.counts + counts
        self.chunks += 1

    def clear(self) -> None:
        """Drop every chunk, and start again."""
        self._stream.truncate(len(self._header))
        self._stream.seek(len(self._header))
        self.counts, self.chunks = Counts(), 0

    def finish(self) -> Path | pa.Buffer:
        """End the stream; return the file's path, or its content where it was kept in memory."""
        import pyarrow

        self._stream.write(_END)
        if isinstance(self._stream, io.BytesIO):
            return pyarrow.py_buffer(self._stream.getvalue())
        assert self.path is not None  # that of the file
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        _partial(self.path).replace(self.path)
        return self.path

    def close(self) -> None:
        """Stop here; the chunks so far are kept for the next run."""
        with suppress(OSError):  # a full disk was reported already
            self._stream.close()

    def remove(self) -> None:
        """Stop here and keep nothing."""
        self.close()
        if self.path is not None:
            _partial(self.path).unlink(missing_ok=True)


def make_features(columns: Sequence[str] = COLUMNS) -> datasets.Features:
    """Return the types of columns of encoded rows: lists of int32, but for the numbers of `SINGLE`."""
    import datasets

    ids = list_feature(datasets)(datasets.Value("int32"))
    return datasets.Features({name: datasets.Value(SINGLE[name]) if name in SINGLE else ids for name in columns})


def make_schema(columns: Sequence[str]) -> pa.Schema:
    """Return the Arrow types of columns of encoded rows, as `make_features` does, with nothing else."""
    import pyarrow

    ids = pyarrow.list_(pyarrow.int32())
    kinds = {name: pyarrow.type_for_alias(kind) for name, kind in SINGLE.items()}
    return pyarrow.schema([(name, kinds.get(name, ids)) for name in columns])


def _encode_schema(path: Path | None, columns: Sequence[str]) -> bytes:
    """Return the head of a stream: the columns as `datasets` writes them, and the fingerprint of the rows.

    The fingerprint is in the name of the file; of a shard, in that of its folder.
    """
    schema = make_features(columns).arrow_schema
    known = json.loads(schema.metadata[b"huggingface"])
    if path is not None:
        name = path.parent.name if path.name.startswith("data-") else path.stem
        known["fingerprint"] = name.removeprefix("cache-")
    return bytes(schema.with_metadata({"huggingface": json.dumps(known)}).serialize())


def pack_chunk(table: pa.Table, counts: Counts) -> memoryview:
    """Return one chunk as a message of an Arrow stream, with its counts and checksum inside.

    `table` holds the columns of the file, in their order. Equal rows give equal bytes, however the table is stored.
    """
    import pyarrow

    schema = make_schema(table.column_names)
    table = table.cast(schema).combine_chunks()
    batches = table.to_batches()
    batch = batches[0] if batches else pyarrow.RecordBatch.from_pylist([], schema=schema)
    head, known = schema.serialize().size, _counts_to_json(counts).encode()
    # Of its full size from the start: one that grows is copied as often as it doubles.
    buffer = pyarrow.allocate_buffer(head + pyarrow.ipc.get_record_batch_size(batch) + len(known) + 1024)
    sink = pyarrow.FixedSizeBufferWriter(buffer)
    stream = pyarrow.ipc.new_stream(sink, schema)
    stream.write_batch(batch, custom_metadata={_COUNTS: known, _CHECKSUM: _checksum(batch, known)})
    return memoryview(buffer)[head : sink.tell()]  # without the head, which a file has once


def read_counts(path: Path, columns: Sequence[str] = COLUMNS) -> Counts | None:
    """Return the counts of a finished file; None where there is none, or one that is damaged.

    Its head, the checksum of each chunk and its end are compared: a disk may change a file that was written whole.
    """
    header = _encode_schema(path, columns)
    counts, end = Counts(), len(header)
    try:
        with path.open("rb") as file:
            if file.read(end) != header:
                return None
        for found, until in _read_chunks(path):
            counts, end = counts + found, until
        with path.open("rb") as file:
            file.seek(end)
            return counts if file.read(len(_END) + 1) == _END else None
    except OSError:
        return None


def _read_chunks(path: Path) -> Iterator[tuple[Counts, int]]:
    """Yield the counts of each whole chunk, and where it ends in the file."""
    import pyarrow

    try:
        with path.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        file = pyarrow.BufferReader(mapped)
        stream = pyarrow.ipc.open_stream(file)
        while True:
            batch, metadata = stream.read_next_batch_with_custom_metadata()
            counts = _counts_from_json(metadata[_COUNTS])
            if metadata[_CHECKSUM] != _checksum(batch, metadata[_COUNTS]):
                return
            yield counts, file.tell()
            if hasattr(mapped, "madvise"):  # one chunk after the other is in memory, and not the file
                mapped.madvise(mmap.MADV_DONTNEED)
    except (StopIteration, OSError, pyarrow.ArrowException, LookupError, TypeError, ValueError):
        return


def _checksum(batch: pa.RecordBatch, counts: bytes) -> bytes:
    import xxhash

    checksum = xxhash.xxh3_64(counts)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in SINGLE:
            checksum.update(column.to_numpy(zero_copy_only=False).view("uint8"))
            continue
        ends = column.offsets.to_numpy()
        checksum.update((ends - ends[:1]).view("uint8"))
        checksum.update(column.flatten().to_numpy(zero_copy_only=False).view("uint8"))
    return checksum.hexdigest().encode()


def _counts_to_json(counts: Counts) -> str:
    return json.dumps({name: value for name, value in asdict(counts).items() if value})


def _counts_from_json(text: bytes) -> Counts:
    values = json.loads(text)
    examples = tuple(CountedRow(**example) for example in values.get("examples", ()))
    unread = tuple(values.get("unread_columns", ()))
    return Counts(**{**values, "examples": examples, "unread_columns": unread})


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")
