"""How long `prepare(tokenizer)` and `diagnose(tokenizer)` take beside loading the tokenizer: median CPU seconds."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import measure
from transformers import AutoTokenizer

from llama_padfix import diagnose, prepare

options = measure.read_options("tries")


def time_calls(make: Callable[[], object], work: Callable[[object], object]) -> float:
    """Return the median, after one call that is not counted; `make` is not timed."""
    seconds = []
    for _ in range(int(options.tries or 3) + 1):
        subject = make()
        started = measure.count_cpu()
        work(subject)
        seconds.append(measure.count_cpu() - started)
    return statistics.median(seconds[1:])


def load(*_: object) -> object:
    """Load the tokenizer anew, so that nothing is kept from the call before."""
    return AutoTokenizer.from_pretrained(options.tokenizer)


with measure.Work() as work:
    medians = {
        "loading": time_calls(lambda: None, load),
        "prepare": time_calls(load, prepare),
        "diagnose": time_calls(load, diagnose),
    }
measure.report(options, work, **medians)
