"""What the engines cost: run `python benchmarks/engines.py [rows]`; exits 1 where they give other ids.

Prints CPU seconds for loading and for encoding rows of about 600 tokens of Llama 3.1 (each engine in turn, medians of
the ratios to bare `tokenizers` and to bare `fastokens`), for chunks of several sizes, for one string a row and one a
message, the peak memory of each in a process of its own (Linux), and from how much text on the fast engine pays. The
text are the sources of Python's standard library, other rows in each round.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from llama_padfix.demo.reference import build_tokenizer
from llama_padfix.tokens.engine import BREAK_EVEN, choose_engine

ROUNDS = 5
CHUNK = 1000
ENGINES = ("tokenizers", "fastokens")
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"


def make_rows(count: int, seed: int) -> list[list[str]]:
    """Return conversations as the strings of their messages, with log-normal lengths."""
    draw, text = random.Random(seed), read_library()
    rows = []
    for _ in range(count):
        turns = draw.choices((1, 2, 3, 4, 5), (40, 25, 15, 12, 8))[0]
        length = int(min(draw.lognormvariate(7.45, 0.8), 40_000))
        row = []
        for place in range(2 * turns):
            start = draw.randrange(len(text) - length)
            content = text[start : start + max(length // (2 * turns), 8)].strip()
            row.append(HEADER.format(("user", "assistant")[place % 2]) + content + "<|eot_id|>")
        rows.append(["<|begin_of_text|>" + row[0], *row[1:]])
    return rows


def read_library(found: list[str] = []) -> str:  # noqa: B006
    """Return the sources of the standard library's own modules, once read."""
    if not found:
        folder = Path(sysconfig.get_path("stdlib"))
        found.append("\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("[a-z]*.py"))))
    return found[0]


def chunks(texts: list[str], size: int) -> Iterator[list[str]]:
    """Yield the texts in lists of a size."""
    return (texts[start : start + size] for start in range(0, len(texts), size))


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds of all threads, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def join(parts: list[Any]) -> Any:
    """Return the flat ids of some calls."""
    return numpy.concatenate([ids for ids, _ in parts])


def measure(tokenizer: Any, rows: int) -> bool:
    """Print the tables; tell whether all ids agreed."""
    loading = []
    for _ in range(3):
        spent, fast = cpu(lambda: choose_engine(tokenizer, "fastokens"))
        loading.append(spent)
        native = fast._routes.fast._encode  # type: ignore[union-attr]
        if len(loading) < 3:
            del fast, native
    print(f"loading fastokens: {loading[0]:.2f} CPU s with the probe, {statistics.median(loading[1:]):.2f} without")
    exact = choose_engine(tokenizer, "tokenizers")
    backend = tokenizer.backend_tokenizer
    bare_batch = getattr(backend, "encode_batch_fast", backend.encode_batch)

    def bare_tokenizers(texts: list[str]) -> Any:
        for batch in chunks(texts, CHUNK):
            bare_batch(batch, add_special_tokens=False)

    def bare_fastokens(texts: list[str]) -> Any:
        for batch in chunks(texts, CHUNK):
            native(batch)

    spent: dict[str, list[float]] = {}
    same, tokens, characters = True, 0, 0
    for seed in range(ROUNDS):
        messages = make_rows(rows, seed)
        whole, parts = ["".join(row) for row in messages], [text for row in messages for text in row]
        works: dict[str, Callable[[], Any]] = {
            "bare tokenizers, a string a row": lambda texts=whole: bare_tokenizers(texts),  # type: ignore[misc]
            "tokenizers, a string a row": lambda texts=whole: [exact.encode(c) for c in chunks(texts, CHUNK)],  # type: ignore[misc]
            "tokenizers, a string a message": lambda texts=parts: [exact.encode(c) for c in chunks(texts, 5 * CHUNK)],  # type: ignore[misc]
            "bare fastokens, a string a row": lambda texts=whole: bare_fastokens(texts),  # type: ignore[misc]
            "fastokens, a string a row": lambda texts=whole: [fast.encode(c) for c in chunks(texts, CHUNK)],  # type: ignore[misc]
            "fastokens, a string a message": lambda texts=parts: [fast.encode(c) for c in chunks(texts, 5 * CHUNK)],  # type: ignore[misc]
        }
        names = list(works)
        results = {}
        for name in names[seed:] + names[:seed]:  # another one begins in each round
            seconds, results[name] = cpu(works[name])
            spent.setdefault(name, []).append(seconds)
        flat = [join(found) for found in results.values() if found is not None]
        same = same and all(numpy.array_equal(flat[0], other) for other in flat)
        tokens, characters = tokens + len(flat[0]), characters + sum(map(len, whole))
    print(
        f"{ROUNDS} rounds of {rows} rows: {tokens:,} tokens, {characters:,} characters; ids equal: {same}; "
        f"engine at the end: {fast.name}"
    )
    print(f"{'':34} {'CPU s':>8} {'tokens/s':>12} {'/ bare tokenizers':>18} {'/ bare fastokens':>18}")
    slow, quick = spent["bare tokenizers, a string a row"], spent["bare fastokens, a string a row"]
    for name, seconds in spent.items():
        to_slow, to_quick = (
            statistics.median(a / b for a, b in zip(seconds, other, strict=True)) for other in (slow, quick)
        )
        middle = statistics.median(seconds)
        print(f"{name:34} {middle:8.3f} {tokens / ROUNDS / middle:12,.0f} {to_slow:18.3f} {to_quick:18.2f}")
    saved = statistics.median(
        a - b
        for a, b in zip(spent["tokenizers, a string a message"], spent["fastokens, a string a message"], strict=True)
    )
    even = statistics.median(loading[1:]) / (saved / (characters / ROUNDS))
    print(f"fastokens pays from {even / 1e6:.1f} million characters on (BREAK_EVEN is {BREAK_EVEN / 1e6:.1f})")
    for size in (500, 1000, 2500, rows):
        print(f"chunks of {size:6} rows:", end=" ")
        for engine in (exact, fast):
            seconds = [
                cpu(lambda e=engine, t=texts: [e.encode(c) for c in chunks(t, size)])[0]  # type: ignore[misc]  # noqa: B023
                for texts in (["".join(row) for row in make_rows(rows, 100 + n)] for n in range(3))
            ]
            print(f"{engine.name} {statistics.median(seconds):.3f} CPU s", end="  ")
        print()
    return same


def measure_peak(engine: str, rows: int, size: int) -> None:
    """Print as JSON how much memory this process held before encoding, and at most while it encoded, in MB."""
    tokenizer = build_tokenizer()
    chosen = choose_engine(tokenizer, engine)  # type: ignore[arg-type]
    texts = ["".join(row) for row in make_rows(rows, 7)]
    chosen.encode(texts[:2])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of loading
    before = read_status("VmRSS")
    for chunk in chunks(texts, size):
        if engine == "tokenizers" and size == rows:  # bare, in one call
            tokenizer.backend_tokenizer.encode_batch(chunk, add_special_tokens=False)
        else:
            chosen.encode(chunk)
    print(json.dumps([before, read_status("VmHWM")]))


def read_status(name: str) -> float:
    """Return one of the kernel's figures of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def main() -> int:
    """Run it all; 1 when ids differ."""
    if sys.argv[1:2] == ["--peak"]:
        measure_peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return 0
    rows = int(sys.argv[1]) if sys.argv[1:] else 1000
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        same = measure(build_tokenizer(), rows)
        for engine, size in (("tokenizers", CHUNK), ("tokenizers", 5000), ("fastokens", CHUNK), ("fastokens", 5000)):
            command = [sys.executable, __file__, "--peak", engine, "5000", str(size)]
            before, after = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            bare = " (one bare call)" if engine == "tokenizers" and size == 5000 else ""
            print(
                f"peak memory of 5000 rows, {engine}, chunks of {size}{bare}: {before:.0f} MB before, {after:.0f} MB"
            )
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
