"""What each script of the benchmark shares: its options, what its work cost, and its report.

A script loads what it needs, does its work inside `with Work() as work:`, and calls `report`. CPU seconds are those of
user and system, of this process and of its children. Peak memory is read at the end of the work, before rows are
written down for the comparison. Everything here runs in the peers' environments, so it needs numpy and pyarrow alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_LENGTH = 131_072  # tokens: Llama 3.1's context, so that no row is cut and every peer's truncation runs
PACKAGES = ("llama-padfix", "fastokens", "tokenizers", "transformers", "trl", "datasets", "torch", "numpy", "pyarrow")
PACKAGES += ("unsloth", "unsloth_zoo", "llamafactory", "torchtune", "tiktoken", "axolotl")


def read_options(*extra: str) -> Any:
    """Return the command line: --data, --tokenizer, --work (a folder to write in), --out, --rows-to, and `extra`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=_absolute, required=True, help="the Arrow file of conversations")
    parser.add_argument("--tokenizer", type=_absolute, required=True, help="the folder of the tokenizer")
    parser.add_argument("--work", type=_absolute, required=True, help="a folder that all caches go to")
    parser.add_argument("--out", type=_absolute, required=True, help="the JSON file for the report")
    parser.add_argument("--rows-to", type=_absolute, help="a folder for the rows themselves")
    for name in extra:
        parser.add_argument(f"--{name}")
    return parser.parse_args()


def _absolute(path: str) -> Path:
    return Path(path).absolute()  # and not resolved: datasets writes its caches beside the link that it is given


def count_cpu() -> float:
    """Return the CPU seconds of this process and of its children so far."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Work:
    """Measures what happens inside its `with` block: CPU and wall seconds, peak memory, CPU of the whole process."""

    cpu = wall = process_cpu = 0.0
    peak = 0

    def __enter__(self) -> Work:
        self._cpu, self._wall = count_cpu(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.process_cpu = count_cpu()
        self.cpu, self.wall = self.process_cpu - self._cpu, time.perf_counter() - self._wall
        self.peak = read_peak()


def work_often(do: Callable[[], Any], times: int = 5) -> tuple[Work, Any]:
    """Return the median of several calls by CPU seconds, and what the last one returned.

    For work so short that new memory, which the first call touches, would be most of it.
    """
    works = []
    for _ in range(times):
        with Work() as work:
            made = do()
        works.append(work)
    return sorted(works, key=lambda work: work.cpu)[times // 2], made


def read_peak() -> int:
    """Return this process's peak resident memory in bytes.

    Not `ru_maxrss`, which on Linux starts with the memory of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def read_table(file: Path) -> Any:
    """Return the conversations as a `pyarrow.Table` that is mapped into memory."""
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()


def flatten(column: Any) -> tuple[Any, Any]:
    """Return an Arrow column of lists as flat ids (int32) and the rows' lengths (int64)."""
    import numpy

    chunks = column.chunks if hasattr(column, "chunks") else [column]
    flat = [chunk.flatten().to_numpy(zero_copy_only=False).astype(numpy.int32) for chunk in chunks]
    lengths = [chunk.value_lengths().to_numpy(zero_copy_only=False).astype(numpy.int64) for chunk in chunks]
    return numpy.concatenate(flat), numpy.concatenate(lengths)


def flatten_lists(rows: list[list[int]]) -> tuple[Any, Any]:
    """Return lists of ids as `flatten` returns a column."""
    import itertools

    import numpy

    lengths = numpy.fromiter(map(len, rows), numpy.int64, len(rows))
    return numpy.fromiter(itertools.chain.from_iterable(rows), numpy.int32, int(lengths.sum())), lengths


def report(options: Any, work: Work, ids: Any = None, labels: Any = None, lengths: Any = None, **more: Any) -> None:
    """Write the report, and the rows where they are asked for; `labels` is None where a script makes none.

    `more` goes into the report as it is; `rows` and `tokens` there stand for ids that are not kept.
    """
    files = (path for path in options.work.rglob("*") if path.is_file() and not path.is_symlink())
    written = sum(path.stat().st_size for path in files)
    told: dict[str, Any] = {
        "cpu": work.cpu,
        "wall": work.wall,
        "process_cpu": work.process_cpu,
        "peak": work.peak,
        "written": written,
        "versions": _versions(),
        "python": platform.python_version(),
    }
    if ids is not None:
        told |= {"rows": len(lengths), "tokens": len(ids)}
        hashed = hashlib.sha256()
        for array in (ids, lengths) if labels is None else (ids, labels, lengths):
            hashed.update(memoryview(array).cast("B"))
        told["digest"] = hashed.hexdigest()
        if options.rows_to is not None:
            keep_rows(options.rows_to, ids, labels, lengths)
    options.out.write_text(json.dumps(told | more), encoding="utf-8")


def keep_rows(folder: Path, ids: Any, labels: Any, lengths: Any) -> None:
    """Write rows down for a comparison."""
    import numpy

    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("ids", ids), ("labels", labels), ("lengths", lengths)):
        if array is not None:
            numpy.save(folder / f"{name}.npy", array)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
