"""Chunks of rows to parts of ids and labels, in their order: in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.counts import Counts
from llama_padfix.encoding.dataset.arrow_stream import make_schema
from llama_padfix.encoding.dataset.parts import pack_parts
from llama_padfix.encoding.dataset.reader import CHUNK_ROWS, RowReader, cut_rows, cut_table, tabulate
from llama_padfix.encoding.encoder import ChatEncoder

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.encoding.dataset.parts import EncodedPart


def encode_chunks(
    encoder: ChatEncoder, reader: RowReader, first_chunk: int, num_proc: int | None, most: int, *, strict: bool = False
) -> Iterator[EncodedPart]:
    """Yield the parts of encoded chunks from `first_chunk` on, of at most `most` bytes each, as `pack_parts` does.

    They come in order, and are the same bytes for any number of processes. Raises `PadfixError` for a bad row and when
    a process ends unexpectedly, and `FastPathMismatch` with `strict`.
    """
    starts = range(first_chunk * CHUNK_ROWS, len(reader), CHUNK_ROWS)
    processes = min(num_proc or 1, len(starts))
    carried = _Carried(encoder, reader if reader.is_mapped else None, most, strict)
    if processes > 1:
        yield from _encode_in_processes(carried, reader, starts, processes)
        return
    for start in starts:
        yield from carried.encode(reader.read(start, min(start + CHUNK_ROWS, len(reader))), start)


@dataclass(frozen=True)
class _Carried:
    """What a worker needs for all of its chunks; `reader` is None where it is sent the rows."""

    encoder: ChatEncoder
    reader: RowReader | None
    most: int
    strict: bool

    def encode(self, rows: pa.Table | list[object], first_row: int) -> Iterator[EncodedPart]:
        """Yield the parts of a chunk, each when it is encoded."""
        return pack_parts(self._encode_pieces(rows, first_row), first_row // CHUNK_ROWS, self.most)

    def _encode_pieces(self, rows: pa.Table | list[object], first_row: int) -> Iterator[tuple[pa.Table, Counts]]:
        import pyarrow

        table = tabulate(rows) if isinstance(rows, list) else rows
        schema = make_schema(self.encoder.columns)
        for piece in cut_table(table) if table is not None else cut_rows(rows):
            if isinstance(piece, list):
                columns, counts = self.encoder.encode_rows(piece, first_row, strict=self.strict)
                yield pyarrow.table(columns, schema=schema), counts
            else:
                encoded, counts = self.encoder.encode_chunk(piece, first_row, strict=self.strict)
                yield encoded, counts
            first_row += len(piece)


def _encode_in_processes(carried: _Carried, reader: RowReader, starts: range, processes: int) -> Iterator[EncodedPart]:
    import dill  # a dependency of datasets, which also pickles a callable `train_on` of a script or notebook

    context = multiprocessing.get_context()
    # A forked process has the encoder already; any other is sent it once.
    sent = carried if context.get_start_method() == "fork" else dill.dumps(carried)
    waiting: deque[tuple[int, Future[list[EncodedPart]]]] = deque()
    left, first_row = iter(starts), starts.start
    pool = ProcessPoolExecutor(processes, context, _start_worker, (sent, os.getpid()))
    try:
        while True:
            while len(waiting) < 2 * processes and (start := next(left, None)) is not None:
                stop = min(start + CHUNK_ROWS, len(reader))
                rows = b"" if reader.is_mapped else _send(reader.read(start, stop))
                waiting.append((start, pool.submit(_work, start, stop, rows)))
            if not waiting:
                return
            first_row, future = waiting.popleft()
            try:
                yield from future.result()
            except RecursionError:  # a row that is nested too deeply to be sent
                stop = min(first_row + CHUNK_ROWS, len(reader))
                yield from carried.encode(reader.read(first_row, stop), first_row)
    except BrokenProcessPool as error:
        raise PadfixError(
            f"One of {processes} processes that encode ended without a word (killed, out of memory, or a script "
            f'without `if __name__ == "__main__":`), at about row {first_row}. Where the rows are cached, what was '
            f"encoded is kept, and the same call goes on from there; for less memory, num_proc={processes // 2 or 1}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """What this process holds when it is a worker, set once by the pool's initializer."""

    carried: _Carried


def _start_worker(carried: _Carried | bytes, parent: int) -> None:
    import dill

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool already uses all processes that were asked for
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _Worker.carried = dill.loads(carried) if isinstance(carried, bytes) else carried


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: otherwise it would wait forever and hold the lock."""
    process = multiprocessing.parent_process()
    while process is not None and os.getppid() == parent and not wait([process.sentinel], timeout=1):
        pass
    os._exit(1)


def _work(start: int, stop: int, rows: bytes | list[object]) -> list[EncodedPart]:
    carried = _Worker.carried
    found = _receive(rows) if carried.reader is None else carried.reader.read(start, stop)
    return [(bytes(message), counts) for message, counts in carried.encode(found, start)]


def _send(rows: pa.Table | list[object]) -> bytes | list[object]:
    """Return a list as it is, and a table as a stream: a part of one is pickled with the whole of its columns."""
    import pyarrow

    if isinstance(rows, list):
        return rows
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _receive(rows: bytes | list[object]) -> pa.Table | list[object]:
    import pyarrow

    return rows if isinstance(rows, list) else pyarrow.ipc.open_stream(rows).read_all()
