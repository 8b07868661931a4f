"""Print what packing and grouping save, on the benchmark's conversations at 2,048 tokens.

Three measurements, each side by side in one process, in CPU seconds: positions computed for each real token, the time
of packing beside TRL's `pack_dataset`, and tokens that a small model trains per second, padded, grouped and packed.

Run from the repository root: python benchmarks/packing.py [rows] [rounds]
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
import trl

from benchmarks.throughput.data import make_rows
from llama_padfix import Prepared, prepare
from llama_padfix.demo.reference import build_tokenizer
from llama_padfix.encoding.packing.pack import pack_rows

LENGTH, BATCH, STEPS = 2048, 8, 4


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _batches(prepared: Prepared, rows: Any, size: int) -> Iterator[dict[str, Any]]:
    """Yield batches in a random order; of like length where the rows are grouped."""
    if prepared.group_by_length:
        from transformers.trainer_pt_utils import LengthGroupedSampler

        generator = torch.Generator().manual_seed(0)
        order = list(LengthGroupedSampler(size, lengths=rows["length"][:], generator=generator))
    else:
        order = random.Random(0).sample(range(len(rows)), len(rows))
    for start in range(0, len(order) - size + 1, size):
        yield prepared.collator([rows[place] for place in order[start : start + size]])


def _make_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
        )
    )


def _train(model: Any, batches: Iterator[dict[str, Any]]) -> float:
    """Return the trained tokens per CPU second of a few steps."""
    taken = [batch for batch, _ in zip(batches, range(STEPS), strict=False)]
    trained = sum(int((batch["labels"] != -100).sum()) for batch in taken)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def run() -> None:
        for batch in taken:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return trained / _seconds(run)


def main(rows: int = 5000, rounds: int = 5) -> None:
    """Print all three measurements."""
    datasets.disable_progress_bars()
    tokenizer = build_tokenizer("3.1-instruct")
    model = _make_model(tokenizer)
    chats = list(make_rows(rows))
    ways = {
        "padded": prepare(tokenizer, model, max_length=LENGTH),
        "grouped": prepare(tokenizer, model, max_length=LENGTH, group_by_length=True),
        "packed": prepare(tokenizer, model, max_length=LENGTH, packing=True),
    }
    encoded = {name: way.encode(chats, progress=False) for name, way in ways.items()}
    real = sum(map(len, encoded["padded"]["input_ids"]))
    print(f"{rows} conversations, {real} tokens; torch {torch.__version__}, trl {trl.__version__}")
    for name, way in ways.items():
        for size in (2, BATCH, 64):
            seen = list(_batches(way, encoded[name], size))
            positions = sum(batch["input_ids"].numel() for batch in seen)
            counted = sum(_count_real(batch, way) for batch in seen)
            print(f"{name}, batches of {size}: {positions / counted:.3f} positions for each real token")

    alone = encoded["padded"]
    times: dict[str, list[float]] = {"ours": [], "TRL": []}
    for _ in range(rounds):
        times["ours"].append(_seconds(lambda: pack_rows(alone, LENGTH, progress=False)))
        times["TRL"].append(_seconds(lambda: trl.pack_dataset(alone, LENGTH)))
    medians = {name: statistics.median(found) for name, found in times.items()}
    print(f"packing: ours {medians['ours']:.3f} CPU s, TRL {medians['TRL']:.3f}")
    print(f"ratio {statistics.median(b / a for a, b in zip(times['ours'], times['TRL'], strict=True)):.2f}")

    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            speeds[name].append(_train(model, _batches(way, encoded[name], 2 if name == "packed" else BATCH)))
    for name, found in speeds.items():
        ratio = statistics.median(own / padded for own, padded in zip(found, speeds["padded"], strict=True))
        print(f"training, {name}: {statistics.median(found):.0f} trained tokens a CPU second, {ratio:.2f} of padded")


def _count_real(batch: dict[str, Any], way: Prepared) -> int:
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    return int((batch["input_ids"] != way.collator.pad_token_id).sum())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
