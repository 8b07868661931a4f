"""What a guard costs: run `python benchmarks/guard.py`; exits 1 above 1 percent of a step.

A tiny Llama over the full vocabulary trains on the example conversations, alternately a step with the guard's hooks
and one without, so that a busy machine slows both. What the hooks themselves take is timed inside the guarded steps as
well: that share is steady where the difference of two noisy medians is not, and it is what the exit code goes by.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from typing import Any

import torch

from llama_padfix import TrainingGuard, prepare
from llama_padfix.demo.reference import build_tokenizer, make_tiny_llama
from llama_padfix.demo.run import load_rows

PAIRS = 40
ROWS = 4
TARGET = 0.01


class Timed(TrainingGuard):
    """Adds up the seconds spent in its own hooks."""

    spent = 0.0

    def on_forward(self, micro: Any, output: Any = None) -> None:
        """Record a forward pass."""
        started = time.perf_counter()
        super().on_forward(micro, output)
        self.spent += time.perf_counter() - started

    def _before_step(self, optimizer: Any) -> None:
        started = time.perf_counter()
        super()._before_step(optimizer)
        self.spent += time.perf_counter() - started


def main() -> int:
    """Print the table; 1 when the target is missed."""
    torch.manual_seed(0)
    tokenizer, model = build_tokenizer("3.1-instruct"), make_tiny_llama("3.1-instruct")
    prepared = prepare(tokenizer, model, max_length=128)
    rows = list(prepared.encode(load_rows(["chats.jsonl"]), progress=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        guard = Timed(folder, tokenizer=tokenizer)
        started = time.perf_counter()
        guard.attach(model, optimizer)
        attaching = time.perf_counter() - started
        first = 0.0
        for place in range(2 * (PAIRS + 1)):
            guarded = place % 2 == 0
            batch = prepared.collator([rows[(place * ROWS + row) % len(rows)] for row in range(ROWS)])
            hooks = (model._forward_hooks.copy(), optimizer._optimizer_step_pre_hooks.copy())
            if not guarded:
                model._forward_hooks.clear()
                optimizer._optimizer_step_pre_hooks.clear()
            spent, started = guard.spent, time.perf_counter()
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
            elapsed = time.perf_counter() - started
            model._forward_hooks.update(hooks[0])
            optimizer._optimizer_step_pre_hooks.update(hooks[1])
            if place == 0:
                first = guard.spent  # the doctor reads the first batch
            elif place > 1:
                seconds[guarded].append(elapsed)
                if guarded:
                    shares.append((guard.spent - spent) / elapsed)
        assert not guard.incidents and guard._step == PAIRS + 1
        guard.detach()
    with_guard, without = statistics.median(seconds[True]), statistics.median(seconds[False])
    share = statistics.median(shares)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters / 1e6:.1f} M parameters, {ROWS} rows of up to 128 tokens, {PAIRS} pairs of steps, medians")
    print(f"step without guard   {1000 * without:9.2f} ms")
    print(f"step with guard      {1000 * with_guard:9.2f} ms   ratio {with_guard / without:.4f}")
    print(f"in the guard's hooks {1000 * share * with_guard:9.2f} ms   {share:.3%} of a step, target {TARGET:.0%}")
    print(f"once: attaching {1000 * attaching:.1f} ms, the doctor on the first batch {1000 * first:.0f} ms")
    return int(share > TARGET)


if __name__ == "__main__":
    sys.exit(main())
