"""CPU seconds and memory of `check_serving` on a Llama 3.1 folder: run `python benchmarks/serving.py [rows]`.

The benchmark's conversations against every engine that runs in this process, and llama.cpp's by its rules. Rows and
four times as many take turns, each in a process of its own, three times. A call with one row goes before, and its time
is taken off: loading does not count. Prints the medians. The exit status is 1 where 1,000 rows take 10 CPU seconds or
more, or where four times the rows need more than 64 MB more.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.throughput.data import make_rows
from llama_padfix import ChatEncoder, check_serving
from llama_padfix.demo.reference import build_tokenizer, make_tiny_llama

RUNS, TIMES = 3, 4
SECONDS, MEGABYTES = 10.0, 64.0  # for 1,000 rows; more for TIMES the rows
ENGINES = ("transformers", "transformers-5.20", "vllm", "sglang", "tgi", "minijinja", "mlx-lm", "ollama", "llama.cpp")


def measure(folder: str, rows: int) -> None:
    """Print CPU seconds, the growth of the peak in MB, and the points of one call."""
    encoder = ChatEncoder(build_tokenizer("3.1-instruct"), template_kwargs={"date_string": "26 Jul 2024"})

    def check(some: Iterator[dict[str, Any]], limit: int) -> int:
        report = check_serving(folder, some, engines=ENGINES, rows=limit, encoder=encoder)
        return sum(engine.points for engine in report.engines)

    check(make_rows(64), 64)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    check(make_rows(1), 1)
    loading = time.process_time() - start
    points = check(make_rows(rows), rows)
    seconds = time.process_time() - start - 2 * loading
    print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, points)


def run(folder: str, rows: int) -> tuple[float, float, float]:
    """Return what `measure` prints in a process of its own."""
    told = subprocess.run(
        [sys.executable, __file__, "--measure", folder, str(rows)], capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise SystemExit(told.stderr)
    seconds, grown, points = map(float, told.stdout.split())
    return seconds, grown, points


def main(rows: int) -> int:
    """Print the medians; 1 when a target is missed."""
    sizes = (rows, rows * TIMES)
    seen: dict[int, list[tuple[float, float, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer("3.1-instruct").save_pretrained(folder)
        make_tiny_llama("3.1-instruct").save_pretrained(folder)
        for turn in range(RUNS):
            for size in sizes if turn % 2 == 0 else sizes[::-1]:
                seen[size].append(run(folder, size))
    medians = {size: [statistics.median(part) for part in zip(*told, strict=True)] for size, told in seen.items()}
    for size, (seconds, grown, points) in medians.items():
        print(f"{size} rows, {points:.0f} points of all engines: {seconds:.2f} CPU s, the peak grew by {grown:.0f} MB")
    less, more = (medians[size] for size in sizes)
    return int(less[0] * 1000 / rows >= SECONDS or more[1] - less[1] > MEGABYTES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]))
    else:
        raise SystemExit(main(int(sys.argv[1]) if sys.argv[1:] else 1000))
