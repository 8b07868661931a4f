"""Encoded rows as one Arrow stream that grows by the parts of chunks, and is continued behind a whole chunk."""

from __future__ import annotations

import io
import json
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llama_padfix.core.compat import list_feature
from llama_padfix.encoding.counts import CountedRow, Counts

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

COLUMNS = ("input_ids", "labels")
SINGLE = {"label": "bool", "margin": "float64"}
"""The columns that hold one number of a row, and its type; every other holds a list of ids."""
_COUNTS, _CHECKSUM, _PLACE = b"llama_padfix.encoding.counts", b"llama_padfix.checksum", b"llama_padfix.place"
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of an Arrow stream: a message without length
_IN_MEMORY = 64 << 20  # bytes
PART_BYTES = 16 << 20
"""The most bytes of a part of several rows; the chunks of most datasets are one part."""


class Place(NamedTuple):
    """Where a part stands: the number of its chunk, and its own in the chunk."""

    chunk: int = 0
    part: int = 0

    def next(self, counts: Counts | None) -> Place:
        """Return the place behind this part; the last part of a chunk has the counts of the chunk."""
        return Place(self.chunk, self.part + 1) if counts is None else Place(self.chunk + 1)


class EncodedFile:
    """Writes parts of chunks in their order; `counts` is what became of the rows of the chunks that end in it.

    With a `path`, parts go to a file beside it, which takes that name when it is whole. What an earlier run left
    there is kept as far as it is valid: from the place `first` on, by their checksums, up to the last part of a chunk
    of the `expected` number of rows. Without a path they are kept in memory, and above 64 MB in the file that `spill`
    names. `place` is that of the next part, `first` that of the first one.
    """

    def __init__(
        self,
        path: Path | None,
        expected: Callable[[int], int],
        spill: Callable[[], Path],
        columns: Sequence[str] = COLUMNS,
        first: Place = Place(),  # noqa: B008  # a tuple
    ) -> None:
        self.path = path
        self.counts = Counts()
        self.place = self.first = first
        self._header = _encode_schema(path, columns)
        self._spill = spill
        self._stream: io.BytesIO | io.BufferedRandom = io.BytesIO()
        if path is None:
            self._stream.write(self._header)
            return
        partial = name_partial(path)
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
        for place, counts, end in _read_parts(partial, self.first):
            if counts is None:
                continue
            if counts.rows != expected(place.chunk):
                break
            self.counts, self.place, kept = self.counts + counts, place.next(counts), end
        return kept

    @property
    def size(self) -> int:
        """The bytes of the file if it ended here."""
        return self._stream.tell() + len(_END)

    @property
    def part_bytes(self) -> int:
        """The most bytes of a part of several rows."""
        return PART_BYTES

    @property
    def least(self) -> int:
        """The bytes of a file without rows."""
        return len(self._header) + len(_END)

    def append(self, message: bytes | memoryview, counts: Counts | None) -> None:
        """Write what `pack_part` made of the next part; the last one of a chunk comes with the chunk's counts."""
        self._stream.write(message)
        if isinstance(self._stream, io.BufferedRandom):
            self._stream.flush()  # so that it outlives this process
        elif self._stream.tell() > _IN_MEMORY:
            self.path = self._spill()
            file = name_partial(self.path).open("w+b")
            file.write(self._stream.getbuffer())
            self._stream = file
        self.place = self.place.next(counts)
        self.counts = self.counts + (counts or Counts())

    def clear(self) -> None:
        """Drop every part, and start again."""
        self._stream.truncate(len(self._header))
        self._stream.seek(len(self._header))
        self.counts, self.place = Counts(), self.first

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
        name_partial(self.path).replace(self.path)
        return self.path

    def close(self) -> None:
        """Stop here; the whole chunks so far are kept for the next run."""
        with suppress(OSError):  # a full disk was reported already
            self._stream.close()

    def remove(self) -> None:
        """Stop here and keep nothing."""
        self.close()
        if self.path is not None:
            name_partial(self.path).unlink(missing_ok=True)


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


def pack_part(table: pa.Table, chunk: int, part: int, counts: Counts | None = None) -> memoryview:
    """Return a part of a chunk as a message of an Arrow stream, with its place and checksum inside.

    The last part of a chunk holds the counts of the chunk. `table` holds the columns of the file, in their order.
    Equal rows give equal bytes, however the table is stored.
    """
    import pyarrow

    schema = make_schema(table.column_names)
    table = table.cast(schema).combine_chunks()
    columns = [_trim(column.chunk(0)) if len(column) else [] for column in table.columns]
    batch = pyarrow.record_batch(columns, schema=schema)
    known = {_PLACE: b"%d %d" % (chunk, part)}
    if counts is not None:
        known[_COUNTS] = _counts_to_json(counts)
    head, told = schema.serialize().size, sum(map(len, known.values()))
    # Of its full size from the start: one that grows is copied as often as it doubles.
    buffer = pyarrow.allocate_buffer(head + pyarrow.ipc.get_record_batch_size(batch) + told + 1024)
    sink = pyarrow.FixedSizeBufferWriter(buffer)
    stream = pyarrow.ipc.new_stream(sink, schema)
    stream.write_batch(batch, custom_metadata={**known, _CHECKSUM: _checksum(batch, known)})
    return memoryview(buffer)[head : sink.tell()]  # without the head, which a file has once


def _trim(column: pa.Array) -> pa.Array:
    """Return a column whose buffers hold its rows alone: of a slice, some bytes behind them may be written too."""
    import pyarrow

    if column.null_count:
        return column
    if not pyarrow.types.is_list(column.type):
        return pyarrow.array(column.to_numpy(zero_copy_only=False), column.type)
    ends = column.offsets.to_numpy()
    values = pyarrow.array(column.flatten().to_numpy())
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends - ends[0]), values)


def read_counts(path: Path, columns: Sequence[str] = COLUMNS) -> Counts | None:
    """Return the counts of a finished file; None where there is none, or one that is damaged.

    Its head, the checksum of each part and its end are compared: a disk may change a file that was written whole.
    """
    found = read_file(path, columns)
    return found[0] if found is not None and not found[1].part else None


def read_file(path: Path, columns: Sequence[str] = COLUMNS, first: Place = Place()) -> tuple[Counts, Place] | None:  # noqa: B008
    """Return the counts of the chunks that end in a file which begins at `first`, and the place behind its last part.

    None as for `read_counts`, and where a part is missing.
    """
    header = _encode_schema(path, columns)
    counts, behind, end = Counts(), first, len(header)
    try:
        with path.open("rb") as file:
            if file.read(end) != header:
                return None
        for place, found, until in _read_parts(path, first):
            counts, behind, end = counts + (found or Counts()), place.next(found), until
        with path.open("rb") as file:
            file.seek(end)
            return (counts, behind) if file.read(len(_END) + 1) == _END else None
    except OSError:
        return None


def _read_parts(path: Path, first: Place) -> Iterator[tuple[Place, Counts | None, int]]:
    """Yield the place of each whole part from `first` on, the counts of the last ones, and where it ends."""
    import pyarrow

    place = first
    try:
        with path.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        file = pyarrow.BufferReader(mapped)
        stream = pyarrow.ipc.open_stream(file)
        while True:
            batch, metadata = stream.read_next_batch_with_custom_metadata()
            known = {name: metadata[name] for name in (_PLACE, _COUNTS) if name in metadata}
            if metadata[_CHECKSUM] != _checksum(batch, known) or known[_PLACE] != b"%d %d" % place:
                return
            counts = _counts_from_json(known[_COUNTS]) if _COUNTS in known else None
            yield place, counts, file.tell()
            place = place.next(counts)
            if hasattr(mapped, "madvise"):  # one part after the other is in memory, and not the file
                mapped.madvise(mmap.MADV_DONTNEED)
    except (StopIteration, OSError, pyarrow.ArrowException, LookupError, TypeError, ValueError):
        return


def _checksum(batch: pa.RecordBatch, known: Mapping[bytes, bytes]) -> bytes:
    import xxhash

    checksum = xxhash.xxh3_64(b"\n".join(known.values()))
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in SINGLE:
            checksum.update(column.to_numpy(zero_copy_only=False).view("uint8"))
            continue
        ends = column.offsets.to_numpy()
        checksum.update((ends - ends[:1]).view("uint8"))
        checksum.update(column.flatten().to_numpy(zero_copy_only=False).view("uint8"))
    return checksum.hexdigest().encode()


def _counts_to_json(counts: Counts) -> bytes:
    return json.dumps({name: value for name, value in asdict(counts).items() if value}).encode()


def _counts_from_json(text: bytes) -> Counts:
    values = json.loads(text)
    examples = tuple(CountedRow(**example) for example in values.get("examples", ()))
    unread = tuple(values.get("unread_columns", ()))
    return Counts(**{**values, "examples": examples, "unread_columns": unread})


def name_partial(path: Path) -> Path:
    """Return the name of a file until it is whole."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")
