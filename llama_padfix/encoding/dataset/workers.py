"""Chunks of rows to chunks of ids and labels, in their order: in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.arrow_stream import pack_chunk
from llama_padfix.encoding.dataset.reader import CHUNK_ROWS, RowReader, cut_table, tabulate
from llama_padfix.encoding.encoder import ChatEncoder

__all__ = ["EncodedChunk", "encode_chunks"]


@dataclass(frozen=True)
class EncodedChunk:
    """One chunk as `pack_chunk` packs it."""

    message: Any
    counts: Counts


def encode_chunks(
    encoder: ChatEncoder, reader: RowReader, first_chunk: int, num_proc: int | None, *, strict: bool = False
) -> Iterator[EncodedChunk]:
    """Yield the encoded chunks from `first_chunk` on, in order; the same bytes for any number of processes.

    Raises `PadfixError` for a bad row and when a process ends unexpectedly, and `FastPathMismatch` with `strict`.
    """
    starts = range(first_chunk * CHUNK_ROWS, len(reader), CHUNK_ROWS)
    processes = min(num_proc or 1, len(starts))
    if processes > 1:
        carried = _Carried(encoder, reader if reader.is_mapped else None, strict)
        yield from _encode_in_processes(carried, reader, starts, processes)
        return
    for start in starts:
        yield _encode(encoder, reader.read(start, min(start + CHUNK_ROWS, len(reader))), start, strict)


def _encode(encoder: ChatEncoder, rows: Any, first_row: int, strict: bool) -> EncodedChunk:
    encoded, counts = _encode_rows(encoder, rows, first_row, strict)
    return EncodedChunk(pack_chunk(encoded, counts), counts)


def _encode_rows(encoder: ChatEncoder, rows: Any, first_row: int, strict: bool) -> tuple[Any, Counts]:
    import pyarrow

    table = tabulate(rows) if isinstance(rows, list) else rows
    if table is None:
        columns, counts = encoder.encode_rows(rows, first_row, strict=strict)
        kind = pyarrow.list_(pyarrow.int32())
        return pyarrow.table({name: pyarrow.array(column, kind) for name, column in columns.items()}), counts
    counts, parts = Counts(), []
    for part in cut_table(table):
        encoded, part_counts = encoder.encode_chunk(part, first_row + counts.rows, strict=strict)
        counts = counts + part_counts
        parts.append(encoded)
    return pyarrow.concat_tables(parts), counts


def _encode_in_processes(
    carried: _Carried, reader: RowReader, starts: range, processes: int
) -> Iterator[EncodedChunk]:
    context = multiprocessing.get_context()
    # A forked process has the encoder already; any other is sent it once.
    sent = carried if context.get_start_method() == "fork" else _dump(carried)
    waiting: deque[tuple[int, Future[EncodedChunk]]] = deque()
    left, first_row = iter(starts), starts.start
    pool = ProcessPoolExecutor(processes, context, _start_worker, (sent, os.getpid()))
    try:
        while True:
            while len(waiting) < 2 * processes and (start := next(left, None)) is not None:
                stop = min(start + CHUNK_ROWS, len(reader))
                rows = None if reader.is_mapped else _send(reader.read(start, stop))
                waiting.append((start, pool.submit(_work, start, stop, rows)))
            if not waiting:
                return
            first_row, future = waiting.popleft()
            yield future.result()
    except BrokenProcessPool as error:
        raise PadfixError(
            f"One of {processes} processes that encode ended without a word (killed, out of memory, or a script "
            f'without `if __name__ == "__main__":`), at about row {first_row}. Where the rows are cached, what was '
            f"encoded is kept, and the same call goes on from there; for less memory, num_proc={processes // 2 or 1}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Carried:
    """What a worker needs for all of its chunks; `reader` is None where it is sent the rows."""

    encoder: ChatEncoder
    reader: RowReader | None
    strict: bool


class _Worker:
    """What this process holds when it is a worker, set once by the pool's initializer."""

    carried: _Carried


def _start_worker(carried: _Carried | bytes, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool already uses as many processes as were asked for
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _Worker.carried = _load(carried) if isinstance(carried, bytes) else carried


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: otherwise it would wait forever and hold the lock."""
    process = multiprocessing.parent_process()
    while process is not None and os.getppid() == parent and not wait([process.sentinel], timeout=1):
        pass
    os._exit(1)


def _work(start: int, stop: int, rows: Any) -> EncodedChunk:
    carried = _Worker.carried
    found = _receive(rows) if carried.reader is None else carried.reader.read(start, stop)
    encoded = _encode(carried.encoder, found, start, carried.strict)
    return replace(encoded, message=bytes(encoded.message))


def _send(rows: Any) -> Any:
    """A list, or a table as a stream: a part of a table would be pickled with the whole of its columns."""
    import pyarrow

    if isinstance(rows, list):
        return rows
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sink.getvalue().to_pybytes()


def _receive(rows: Any) -> Any:
    import pyarrow

    return rows if isinstance(rows, list) else pyarrow.ipc.open_stream(rows).read_all()


def _dump(carried: _Carried) -> bytes:
    # A dependency of datasets, which also pickles a callable `train_on` of a script or notebook.
    import dill

    return bytes(dill.dumps(carried))


def _load(carried: bytes) -> _Carried:
    import dill

    loaded: _Carried = dill.loads(carried)
    return loaded
