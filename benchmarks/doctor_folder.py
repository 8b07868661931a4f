"""CPU seconds of `llama-padfix doctor FOLDER` on a Llama 3.1 folder: run `python benchmarks/doctor_folder.py`.

Five runs, each in a process of its own; the median is printed, and the exit status is 1 above 1.5 seconds. With
`--against OTHER`, another checkout of this repository takes turns with this one, and less than 3 times fails too.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from llama_padfix.demo.reference import build_tokenizer, make_tiny_llama

RUNS = 5
TARGET, TIMES = 1.5, 3.0  # CPU seconds; times less than the other checkout


def run(tree: Path, folder: str) -> float:
    """Return the CPU seconds of one process, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "llama_padfix", "doctor", folder]
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**given, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode > 1:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print the medians; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    other = parser.parse_args().against
    trees = [Path(__file__).parents[1], *([other.resolve()] if other is not None else [])]
    seconds: dict[Path, list[float]] = {tree: [] for tree in trees}
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer("3.1-instruct").save_pretrained(folder)
        make_tiny_llama("3.1-instruct").save_pretrained(folder)
        for tree in trees:
            run(tree, folder)  # compiles Python's files, and fills the cache of the disk
        for turn in range(RUNS):
            for tree in trees if turn % 2 == 0 else trees[::-1]:
                seconds[tree].append(run(tree, folder))
    medians = [statistics.median(seconds[tree]) for tree in trees]
    print(f"this checkout: {medians[0]:.2f} CPU s (target {TARGET})")
    if other is None:
        return int(medians[0] > TARGET)
    times = medians[1] / medians[0]
    print(f"the other: {medians[1]:.2f} CPU s, {times:.1f} times as much (target {TIMES})")
    return int(medians[0] > TARGET or times < TIMES)


if __name__ == "__main__":
    sys.exit(main())
