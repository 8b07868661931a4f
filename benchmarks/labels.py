"""Print how many rows get labels for each chat template that TRL ships, and what labels cost on Llama 3.1.

Run from the repository root: python benchmarks/labels.py [rows]
"""

from __future__ import annotations

import collections
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from llama_padfix.encode import ChatEncoder
from tests.conversations import rows_for, shared
from tests.families import compare, make_nasty, originals


def _print_shares(rows: int) -> None:
    total: collections.Counter[str] = collections.Counter()
    for path in originals():
        counts = collections.Counter(
            compare(path, make_nasty(random.Random(seed), path.stem)).kind for seed in range(rows)
        )
        total += counts
        accepted = rows - counts["unaccepted"] - counts["unfaithful"]
        answered = accepted - counts["refused"]
        compared = sum(counts[kind] for kind in ("same", "space", "documented", "differs"))
        right = compared - counts["differs"]
        print(f"{path.stem:24} answered {answered:4}/{accepted:<4} right {right:4}/{compared:<4} {dict(counts)}")
    print("all", dict(total))


def _best_of(run: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def _print_cost() -> None:
    tokenizer, rows = shared("3.1-instruct"), rows_for("3.1-instruct")[:400]
    encoder = ChatEncoder(tokenizer)
    encoder.encode_rows(rows[:1])
    plain = _best_of(
        lambda: [tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=True) for row in rows]
    )
    ours = _best_of(lambda: encoder.encode_rows(rows))
    print(f"Llama 3.1: {plain / len(rows) * 1e6:.0f} us a row without labels, {ours / len(rows) * 1e6:.0f} us with")
    print(f"cost ratio {ours / plain:.2f}")


if __name__ == "__main__":
    _print_shares(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    _print_cost()
