"""Print how many rows get labels for each chat template that TRL ships, and what labels cost on Llama 3.1.

A row of which the template itself loses a part (a tool call) counts as answered: what is rendered gets its labels.

Run from the repository root: python benchmarks/labels.py [rows]
"""

from __future__ import annotations

import collections
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from llama_padfix.encoding.encoder import ChatEncoder
from tests.support.conversations import rows_for, shared
from tests.support.families import compare, make_nasty, originals


def _print_shares(rows: int) -> None:
    total: collections.Counter[str] = collections.Counter()
    for path in originals():
        counts = collections.Counter(
            compare(path, make_nasty(random.Random(seed), path.stem)).kind for seed in range(rows)
        )
        total += counts
        accepted = rows - counts["unaccepted"]
        answered = accepted - counts["refused"]
        compared = sum(counts[kind] for kind in ("same", "space", "documented", "differs"))
        right = compared - counts["differs"]
        print(f"{path.stem:24} answered {answered:4}/{accepted:<4} right {right:4}/{compared:<4} {dict(counts)}")
    accepted = total.total() - total["unaccepted"]
    print("all", dict(total), f"answered {1 - total['refused'] / accepted:.2%}")


def _time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _print_cost() -> None:
    """Print the median of ratios, plain and ours in turn, in CPU seconds."""
    tokenizer, rows = shared("3.1-instruct"), rows_for("3.1-instruct")[:400]
    encoder = ChatEncoder(tokenizer)
    encoder.encode_rows(rows[:1])

    def render_plainly() -> object:
        return [tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=True) for row in rows]

    pairs = [(_time(render_plainly), _time(lambda: encoder.encode_rows(rows))) for _ in range(11)]
    plain, ours = (statistics.median(times) / len(rows) * 1e6 for times in zip(*pairs, strict=True))
    print(f"Llama 3.1: {plain:.0f} us a row without labels, {ours:.0f} us with")
    print(f"cost ratio {statistics.median(ours / plain for plain, ours in pairs):.2f}")


if __name__ == "__main__":
    _print_shares(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    _print_cost()
