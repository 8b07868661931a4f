"""How long `diagnose` takes beyond imports: run `python benchmarks/diagnose.py`; exits 1 above the targets.

Each target is timed five times after a warm-up; the medians of CPU and wall seconds are printed, and as ratios to
loading the tokenizer from its folder, which holds on machines of any speed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from transformers import AutoTokenizer

from llama_padfix import build_trainer, diagnose, prepare
from llama_padfix.demo.reference import build_tokenizer, make_tiny_llama

RUNS = 5
TARGETS = {"tokenizer": 1.0, "(tokenizer, model)": 1.0, "trainer": 5.0}  # seconds of wall time
CHAT = [{"role": "user", "content": "Say hello. " * 20}, {"role": "assistant", "content": "Hello! " * 20}]


def measure(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the medians of CPU and wall seconds."""
    work()
    cpu, wall = [], []
    for _ in range(RUNS):
        started = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    return statistics.median(cpu), statistics.median(wall)


def main() -> int:
    """Print the table; 1 when a target is missed."""
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer("3.1-instruct").save_pretrained(folder)
        tokenizer, model = AutoTokenizer.from_pretrained(folder), make_tiny_llama("3.1-instruct")
        loading = measure(lambda: AutoTokenizer.from_pretrained(folder))
        prepare(tokenizer, model)
        quick = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "per_device_train_batch_size": 8}
        trainer = build_trainer(model, tokenizer, [{"messages": CHAT}] * 256, output_dir=folder, device="cpu", **quick)
        works = {"tokenizer": tokenizer, "(tokenizer, model)": (tokenizer, model), "trainer": trainer}
        print(f"{'':20} {'CPU s':>8} {'wall s':>8} {'wall / loading':>15}")
        print(f"{'loading':20} {loading[0]:8.3f} {loading[1]:8.3f} {1:15.2f}")
        missed = 0
        for name, target in works.items():
            cpu, wall = measure(lambda target=target: diagnose(target))  # type: ignore[misc]
            missed += wall > TARGETS[name]
            print(f"{name:20} {cpu:8.3f} {wall:8.3f} {wall / loading[1]:15.2f}   target {TARGETS[name]} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
