"""A whole dataset through an encoder: progress while it runs, and the counts of what became of its rows."""

from __future__ import annotations

import copy
import errno
import functools
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.batch.cross_check import FastPathMismatch
from llama_padfix.encoding.dataset.cache import find_cache_file, locked, set_aside
from llama_padfix.encoding.dataset.open_rows import as_sequence, map_splits, require_rows
from llama_padfix.encoding.dataset.reader import CHUNK_ROWS, RowReader
from llama_padfix.encoding.dataset.shards import open_encoded, read_size, read_written, start_writing
from llama_padfix.encoding.dataset.stream import encode_stream, log_counts
from llama_padfix.encoding.dataset.workers import encode_chunks

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from llama_padfix.core.types import Rows
    from llama_padfix.encoding.counts import Counts
    from llama_padfix.encoding.dataset.parts import EncodedPart
    from llama_padfix.encoding.dataset.shards import Writer
    from llama_padfix.encoding.encoder import ChatEncoder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def encode_dataset(
    encoder: ChatEncoder,
    dataset: Rows | str | os.PathLike[str],
    *,
    progress: bool = True,
    name: str = "dataset",
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    max_shard_size: int | str | None = None,
) -> Any:  # of the kind of `dataset`
    """Encode a whole dataset in chunks of 1,000 rows, so that memory does not grow with their number.

    What was dropped, cut or repaired is logged as a warning, with the first rows of each kind, and added to
    `encoder.counts`; for a stream that happens batch by batch, each time that the stream is read.

    The result of a dataset that lies in files is a file beside them, as that of `datasets.map` is, and any other's too
    with `cache_dir`. A second call with the same rows, settings and tokenizer reads that file, with the same counts
    and log. A call that was stopped (an error, Ctrl-C, a killed process) goes on at the chunk where it stopped. If
    several processes encode the same rows into the same file, one does and the others wait for it.

    Args:
        encoder: Its settings and tokenizer decide the ids and labels.
        dataset: A `Dataset`, `DatasetDict`, `IterableDataset`, `IterableDatasetDict`; a list or generator of rows; a
            path: a file that ends in .jsonl, .json, .csv, .tsv or .parquet, also with .gz, or a folder of them; a
            pandas or polars frame; an Arrow table; a torch dataset; or a mapping of splits to any of these.
        progress: Show a progress bar.
        name: What errors and the log call the dataset.
        num_proc: The number of processes; the bytes are those of one. Two encoded chunks of each may be held; without
            it a chunk of long rows is held in pieces of about 16 MB of text. Not for a stream.
        cache_dir: The folder of the result's file. Rows from memory without it, and any rows with
            `datasets.disable_caching()`, are encoded anew each time, into memory up to 64 MB and into a file that is
            deleted with the process beyond. Not for a stream.
        max_shard_size: Write a folder of files of at most this size ("500MB", or bytes) in the place of one file, as
            `save_to_disk` does: `load_from_disk` and `load_dataset("arrow", data_files=...)` read it. A row that
            alone takes more is a file of its own, so 1 gives a file a row. The names are in the result's
            `cache_files`. Needs `cache_dir`, or a dataset that lies in files. Not for a stream.

    Returns:
        The same kind (a `Dataset` for what is not of `datasets`) with the int32 columns `input_ids` and `labels`
        alone. Its description records how it was encoded (`read_encoding`).

    Raises:
        PadfixError: For a bad row, naming it (and `name`, unless it is the default), if the rows are encoded already,
            if no row is left, and for a path or value that is not read, with the call that reads it.
    """
    _require_arguments(encoder, num_proc)
    import datasets

    dataset = as_sequence(dataset)
    if isinstance(dataset, Mapping):
        where: Any = {"num_proc": num_proc, "cache_dir": cache_dir, "max_shard_size": max_shard_size}
        encode: Any = functools.partial(encode_dataset, encoder, progress=progress, **where)
        return map_splits(dataset, lambda split, rows: encode(rows, name=f"split {split!r}"))
    if isinstance(dataset, datasets.IterableDataset):
        if (num_proc, cache_dir, max_shard_size) != (None, None, None):
            raise _stream_error(name)
        return encode_stream(encoder, dataset, name)
    require_rows(dataset, name)
    most = read_size(max_shard_size) if max_shard_size is not None else None
    return _encode_rows(_Work(encoder, RowReader(dataset), name, progress, num_proc, most), dataset, cache_dir)


def _stream_error(name: str) -> PadfixError:
    return PadfixError(
        f"The {name} is a stream: the process that reads it encodes it meanwhile, and nothing is cached. "
        "Leave num_proc, cache_dir and max_shard_size out, and read it with DataLoader(dataset, num_workers=...)"
    )


def _require_arguments(encoder: object, num_proc: object) -> None:
    """Raise `PadfixError` where `datasets` is missing, for no encoder, and for a `num_proc` that is no number."""
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise PadfixError("Encoding a dataset needs the package datasets. Run: pip install datasets") from error
    if not hasattr(encoder, "counts"):
        seen = type(encoder).__name__
        raise PadfixError(
            f"Got a {seen} where an encoder is needed. Run: encode_dataset(ChatEncoder(tokenizer), dataset)"
        )
    if num_proc is not None and (not isinstance(num_proc, int) or isinstance(num_proc, bool) or num_proc < 1):
        raise PadfixError(f"num_proc={num_proc!r}: pass a number of processes, from 1 on, or None.")


def with_arrays(dataset: Any) -> Any:  # of one of the kinds that `encode_dataset` returns
    """Return an encoded dataset, or the splits of one, whose rows are numpy arrays; a stream stays as it is.

    A dataloader gets them in a fraction of the time of lists. `dataset.with_format(None)` gives lists again.
    """
    if isinstance(dataset, Mapping):
        return map_splits(dataset, lambda _, rows: with_arrays(rows))
    if not hasattr(dataset, "__len__"):
        return dataset
    return dataset.with_format("numpy")  # without a dtype of its own, with which `to_iterable_dataset` raises


@dataclass(frozen=True)
class _Work:
    """The rows of one dataset, and how they are to be encoded."""

    encoder: ChatEncoder
    reader: RowReader
    name: str
    progress: bool
    num_proc: int | None
    most: int | None
    """The most bytes of a shard; None for one file."""

    def encode_once(self, path: Path) -> tuple[Path, Counts]:
        """Return the cache file and its counts; encode the rows into it unless that was done, here or elsewhere."""
        counts = self._read_cached(path)
        if counts is None:
            with locked(path):
                counts = self._read_cached(path)
                if counts is None:
                    if self.most is None:
                        set_aside(path)  # where it was damaged
                    return self.encode(path)
        self.encoder.counts = self.encoder.counts + counts
        return path, counts

    def _read_cached(self, path: Path) -> Counts | None:
        counts = read_written(path, self.encoder.columns)
        return counts if counts is not None and counts.rows == len(self.reader) else None

    def encode(self, path: Path | None = None) -> tuple[Path | pa.Buffer, Counts]:
        """Encode the rows into a file, or into memory; return what its `finish` does, and the counts.

        `encoder.counts` also adds up what was encoded before an error.
        """
        before = self.encoder.counts
        file = start_writing(path, self.most, self._count_rows, self.encoder.encoding, self.encoder.columns)
        try:
            self._fill_reliably(file)
            if not file.counts.kept:
                file.remove()
                raise PadfixError(
                    f"No row of the {self.name} is left to train on: {file.counts}. "
                    "Look at the rows or raise max_length."
                )
            return file.finish(), file.counts
        except PadfixError as error:
            if self.name == "dataset" or not str(error).startswith("row "):
                raise
            raise PadfixError(f"{self.name}, {error}") from error
        except OSError as error:
            if error.errno not in _FULL or file.path is None:
                raise
            raise PadfixError(
                f"The disk of {file.path.parent} is full after {file.counts.rows} of {len(self.reader)} rows. Make "
                "room, and the same call goes on from there; or pass cache_dir= with a folder on another disk."
            ) from error
        finally:
            file.close()
            self.encoder.counts = before + file.counts

    def _count_rows(self, chunk: int) -> int:
        return max(0, min(CHUNK_ROWS, len(self.reader) - chunk * CHUNK_ROWS))

    def _fill_reliably(self, file: Writer) -> None:
        """Append what is missing; where a fast path proves wrong, drop all, of earlier runs too, and begin again."""
        encoder = copy.copy(self.encoder) if self.encoder.doubtful else self.encoder  # a copy begins without doubts
        exact = copy.copy(self.encoder)
        exact.engine = "tokenizers"
        # The last attempt takes up nothing again that the one before gave up.
        for attempt, num_proc, strict in ((encoder, self.num_proc, True), (exact, None, True), (exact, None, False)):
            try:
                chunk, most = file.place.chunk, file.part_bytes
                self._fill(file, encode_chunks(attempt, self.reader, chunk, num_proc, most, strict=strict))
                return
            except FastPathMismatch:
                file.clear()

    def _fill(self, file: Writer, parts: Iterable[EncodedPart]) -> None:
        from tqdm.auto import tqdm

        started, had, total, hidden = time.monotonic(), file.counts, len(self.reader), not self.progress
        with tqdm(desc=f"Encoding {self.name}", total=total, initial=had.rows, unit="row", disable=hidden) as bar:
            for message, counts in parts:
                file.append(message, counts)
                if counts is None:  # more of this chunk follows
                    continue
                bar.update(counts.rows)
                tokens = file.counts.tokens
                speed = tqdm.format_sizeof((tokens - had.tokens) / max(time.monotonic() - started, 1e-9))
                bar.set_postfix({"tokens": tokens, "tokens/s": speed, "dropped": file.counts.dropped})


def _encode_rows(
    work: _Work, dataset: datasets.Dataset | Sequence[object], cache_dir: str | os.PathLike[str] | None
) -> datasets.Dataset:
    """Return the encoded rows of a `Dataset` or sequence, from a file or from memory."""
    path = find_cache_file(work.encoder, dataset, cache_dir)
    if work.most is not None:
        if path is None:
            raise PadfixError(
                f"The {work.name} lies in memory, and shards are files. Pass the folder for them: "
                "encode_dataset(encoder, rows, max_shard_size=..., cache_dir=...)"
            )
        path = path.with_name(f"{path.stem}-{work.most}")
    written, counts = work.encode() if path is None else work.encode_once(path)
    log_counts(work.name, counts)
    return open_encoded(written, work.encoder.encoding, work.encoder.columns)
