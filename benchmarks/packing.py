"""Print what packing and grouping save, on the benchmark's conversations at 2,048 tokens.

Three measurements, each side by side in one process, in CPU seconds: positions computed for each real token, the time
of packing beside TRL's `pack_dataset`, and an update of a small model from the same documents, padded, grouped and
packed: trained tokens per second, the loss for each of them, and the update. Two minutes of CPU with 5,000 rows; with
0 rounds the positions alone.

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
from llama_padfix.demo.reference import build_tokenizer, make_tiny_llama
from llama_padfix.encoding.packing.pack import add_lengths, pack_rows

LENGTH, BATCH, DOCUMENTS = 2048, 8, 32
VOCABULARY = 8192  # with Llama's 128,256 the head alone would take most of the time and of the memory


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


def _make_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
        )
    )


def _cut_vocabulary(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with its ids modulo the model's small vocabulary."""
    labels = batch["labels"]
    cut = {
        "input_ids": batch["input_ids"] % VOCABULARY,
        "labels": torch.where(labels < 0, labels, labels % VOCABULARY),
    }
    return {**batch, **cut}


def _train(batches: list[dict[str, Any]]) -> tuple[float, float, torch.Tensor]:
    """Make one update from all batches; return its CPU seconds, the loss for each trained token, and the update."""
    model = _make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    trained = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    losses = []

    def run() -> None:
        for batch in batches:
            loss = model(**batch, num_items_in_batch=trained).loss
            loss.backward()
            losses.append(float(loss.detach()))
        optimizer.step()

    seconds = _seconds(run)
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return seconds, sum(losses), after - before


def _compare_training(ways: dict[str, Prepared], alone: Any, rounds: int) -> None:
    """Print the speed of an update from the same documents, padded, grouped and packed, and how far it is the same.

    The documents stand at even steps of length among all; each round draws their order, and so the padded batches.
    """
    by_length = sorted(range(len(alone)), key=lambda place: len(alone[place]["input_ids"]))
    chosen = alone.select([by_length[(2 * n + 1) * len(alone) // (2 * DOCUMENTS)] for n in range(DOCUMENTS)])
    found: dict[str, list[tuple[float, int, float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        order = chosen.select(random.Random(number).sample(range(DOCUMENTS), DOCUMENTS))
        rows = {"padded": order, "grouped": chosen, "packed": pack_rows(order, LENGTH, progress=False)}
        expected: Any = None
        for name, own in rows.items():
            size = 2 if name == "packed" else BATCH
            cuts = range(0, len(own), size)
            batches = [ways[name].collator([*own.select(range(n, min(n + size, len(own))))]) for n in cuts]
            seconds, loss, update = _train([_cut_vocabulary(batch) for batch in batches])
            expected = expected or (loss, update)
            apart = abs(loss - expected[0]) / expected[0], float((update - expected[1]).norm() / expected[1].norm())
            found[name].append((seconds, sum(batch["input_ids"].numel() for batch in batches), *apart))
    trained = sum(int((row["labels"] != -100).sum()) for row in chosen)
    print(f"an update from {DOCUMENTS} documents with {trained} trained tokens, {rounds} rounds")
    for name, rows_found in found.items():
        spent, positions, losses, updates = zip(*rows_found, strict=True)
        ratio = sum(one[0] for one in found["padded"]) / sum(spent)
        print(
            f"{name}: {sum(positions) // rounds} positions, {trained * rounds / sum(spent):.0f} trained tokens a CPU "
            f"second, {ratio:.2f} times padded; loss {max(losses):.0e} apart, update {max(updates):.0e} apart"
        )


def main(rows: int = 5000, rounds: int = 5) -> None:
    """Print all three measurements."""
    datasets.disable_progress_bars()
    tokenizer = build_tokenizer("3.1-instruct")
    model = make_tiny_llama(hidden_size=16)
    chats = list(make_rows(rows))
    ways = {
        "padded": prepare(tokenizer, model, max_length=LENGTH),
        "grouped": prepare(tokenizer, model, max_length=LENGTH, group_by_length=True),
        "packed": prepare(tokenizer, model, max_length=LENGTH, packing=True),
    }
    alone = ways["padded"].encode(chats, progress=False)
    encoded = {"padded": alone, "grouped": add_lengths(alone), "packed": pack_rows(alone, LENGTH, progress=False)}
    real = sum(map(len, alone["input_ids"]))
    print(f"{rows} conversations, {real} tokens; torch {torch.__version__}, trl {trl.__version__}")
    for name, way in ways.items():
        for size in (2, BATCH, 64):
            seen = list(_batches(way, encoded[name], size))
            positions = sum(batch["input_ids"].numel() for batch in seen)
            counted = sum(_count_real(batch, way) for batch in seen)
            print(f"{name}, batches of {size}: {positions / counted:.3f} positions for each real token")

    if not rounds:
        return
    times: dict[str, list[float]] = {"ours": [], "TRL": []}
    pack_rows(alone, LENGTH, progress=False), trl.pack_dataset(alone, LENGTH)  # once, for what is imported
    for _ in range(rounds):
        times["ours"].append(_seconds(lambda: pack_rows(alone, LENGTH, progress=False)))
        times["TRL"].append(_seconds(lambda: trl.pack_dataset(alone, LENGTH)))
    medians = {name: statistics.median(found) for name, found in times.items()}
    print(f"packing: ours {medians['ours']:.3f} CPU s, TRL {medians['TRL']:.3f}")
    print(f"ratio {statistics.median(b / a for a, b in zip(times['ours'], times['TRL'], strict=True)):.2f}")

    _compare_training(ways, alone, min(rounds, 3))


def _count_real(batch: dict[str, Any], way: Prepared) -> int:
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    return int((batch["input_ids"] != way.collator.pad_token_id).sum())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
