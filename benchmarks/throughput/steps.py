"""Where our own time goes: CPU seconds of each step of a cold start, of encoding with the fast engine, and of labels.

A function is timed without those inside it that are timed too. The cold start encodes the first tenth of the rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import measure

started = time.process_time()
steps: dict[str, dict[str, float]] = {}
_running: list[list[float]] = []  # of each timed function that runs now: the seconds of those inside it


def lap(table: str, step: str) -> None:
    """Write down the seconds since the last lap."""
    global started
    now = time.process_time()
    steps.setdefault(table, {})[step] = now - started
    started = now


def watch(owner: Any, name: str, table: str, step: str) -> None:
    """Time a function of a module or class from now on, in this process."""
    call: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **keywords: Any) -> Any:
        _running.append([0.0])
        begun = time.process_time()
        try:
            return call(*arguments, **keywords)
        finally:
            taken = time.process_time() - begun
            [inside] = _running.pop()
            told = steps.setdefault(table, {})
            told[step] = told.get(step, 0.0) + taken - inside
            if _running:
                _running[-1][0] += taken

    setattr(owner, name, timed)


options = measure.read_options()
COLD, ENCODE, LABELS = "cold start", "encoding", "labels alone"

with measure.Work() as work:
    lap(COLD, "starting Python")
    from transformers import AutoTokenizer

    lap(COLD, "`from transformers import AutoTokenizer`, which imports torch")
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    lap(COLD, "`AutoTokenizer.from_pretrained`")
    from llama_padfix import ChatEncoder, find_markers, mask_labels

    encoder = ChatEncoder(tokenizer, measure.MAX_LENGTH)
    lap(COLD, "importing llama_padfix, making the encoder")
    table = measure.read_table(options.data)
    small = table.slice(0, len(table) // 10)
    encoder.encode_table(small)
    lap(COLD, f"encoding {len(small):,} rows")

    from llama_padfix.encoding import encoder as encode
    from llama_padfix.encoding import learned
    from llama_padfix.encoding.batch import chat_columns as chats
    from llama_padfix.encoding.batch import cross_check as both_ways
    from llama_padfix.encoding.batch import encoder as plain_way
    from llama_padfix.encoding.masking import labels_from_ids as marking
    from llama_padfix.encoding.masking import turns_in_ids as row_turns
    from llama_padfix.tokens import engine as engines
    from llama_padfix.tokens import fastokens as fast_engine

    encoder = ChatEncoder(tokenizer, measure.MAX_LENGTH, engine="fastokens")
    encoder.encode_table(small)  # the engine is loaded and both ways were compared
    for owner, name, step in (
        (learned, "read_chat_table", "reading Arrow"),
        (chats, "to_numpy", "Arrow's columns as arrays"),
        (plain_way, "write_chats", "writing a text a row"),
        (fast_engine.FastEncoder, "__call__", "the engine"),
        (engines, "compare_places", "one row in 1,000 with tokenizers too"),
        (engines.Engine, "encode", "the engine's settings, its copies"),
        (plain_way.BatchEncoder, "_find_turns", "finding the turns in the ids"),
        (plain_way.BatchEncoder, "encode_chats", "labels"),
        (both_ways, "_encode_rows", "one row in 8,192 by the row encoder too"),
        (encode.ChatEncoder, "encode_table", "the rest"),
    ):
        watch(owner, name, ENCODE, step)
    parts = [encoder.encode_table(table.slice(start, 2000), start) for start in range(0, len(table), 2000)]

    import pyarrow

    ids, _ = measure.flatten(pyarrow.concat_tables(parts)["input_ids"])
    markers = find_markers(tokenizer)
    mask_labels(ids, markers)
    started = time.process_time()
    ids.copy()
    lap(LABELS, "(a copy of the ids, for comparison)")
    for owner, name, step in (
        (row_turns, "_find_any", "looking for control tokens"),
        (marking, "find_answers", "headers and answers among them"),
        (marking, "write_labels", "writing the labels"),
        (marking, "label_answers", "the rest"),
    ):
        watch(owner, name, LABELS, step)
    marking.label_answers(ids, markers, last_only=False)
measure.report(options, work, steps=steps)
