"""Print what padding a batch and masking its labels cost, beside TRL's collator and Unsloth's masking function.

    python benchmarks/collate.py [--json] [--unsloth FOLDER] [--pairs N]

CPU seconds of one thread, the median of the ratios of pairs: theirs and ours in turn, each on the same 8 batches. Rows
are drawn: 1 to 5 turns of Llama 3.1 ids, log-normal lengths of about 640 tokens, cut at 2048 for the collators as
`max_length` does. Nothing can be quicker than writing the batch, which is timed too. Unsloth's own code is run:
`unsloth_zoo/dataset_utils.py` of this environment, or of FOLDER, the `site-packages` of another one; without it that
part is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy
import torch

from llama_padfix import PadCollator, TurnMarkers, find_markers, mask_labels
from llama_padfix.demo.reference import build_tokenizer

MEAN_LENGTH, SIGMA = 640, 0.8
MAX_LENGTH = 2048
TURN_WEIGHTS = (0.40, 0.25, 0.15, 0.12, 0.08)
USER, ASSISTANT = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
BATCHES = 8
MASKED_ROWS = 1000  # what `dataset.map(batched=True)` hands over at once

Side = Callable[[], object]


def sample_batches(tokenizer: Any, count: int, seed: int) -> list[list[int]]:
    """Return conversations of random text between true headers and stop tokens."""
    draw = numpy.random.default_rng(seed)
    user, assistant, stop = (
        tokenizer.encode(text, add_special_tokens=False) for text in (USER, ASSISTANT, "<|eot_id|>")
    )
    rows = []
    for _ in range(count):
        turns = int(draw.choice(5, p=TURN_WEIGHTS)) + 1
        length = draw.lognormal(numpy.log(MEAN_LENGTH) - SIGMA**2 / 2, SIGMA) - 10 * turns
        ids = [tokenizer.bos_token_id]
        for place, share in enumerate(draw.dirichlet(numpy.ones(2 * turns))):
            text = draw.integers(0, 128000, max(1, int(share * length))).tolist()
            ids += [*(assistant if place % 2 else user), *text, *stop]
        rows.append(ids)
    return rows


def compare(theirs: Sequence[Side], ours: Mapping[str, Sequence[Side]], pairs: int) -> dict[str, dict[str, float]]:
    """Return for each of our ways the median ratio of CPU seconds, and both medians in microseconds."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ours}
    for place in range(pairs + 1):
        for name, ways in ours.items():
            pair = (_time(theirs), _time(ways))
            if place:  # the first round warms up
                taken[name].append(pair)
    return {
        name: {
            "ratio": statistics.median(their / our for their, our in times),
            "theirs_us": statistics.median(their for their, _ in times) * 1e6,
            "ours_us": statistics.median(our for _, our in times) * 1e6,
        }
        for name, times in taken.items()
    }


def _time(sides: Sequence[Side]) -> float:
    """Return the mean CPU seconds of a call; what was made lives until the next is made, as in a training loop.

    The first call is not timed: it pays for the caches that the other side has filled with its own.
    """
    made = sides[-1]()
    start = time.process_time()
    for run in sides:
        made = run()
    taken = time.process_time() - start
    del made
    return taken / len(sides)


def measure_collating(tokenizer: Any, markers: TurnMarkers, rows: int, pairs: int) -> dict[str, dict[str, float]]:
    """Compare with TRL's collator on Python lists, which is what its trainer hands it."""
    import pyarrow
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    trl, ours = DataCollatorForLanguageModeling(pad_token_id=128001), PadCollator(128001)
    theirs: list[Side] = []
    ways: dict[str, list[Side]] = {}
    for seed in range(BATCHES):
        ids = [row[:MAX_LENGTH] for row in sample_batches(tokenizer, rows, seed)]
        # Of its own numbers, as lists from a dataset are.
        listed = json.loads(
            json.dumps(
                [{"input_ids": row, "labels": own} for row, own in zip(ids, mask_labels(ids, markers), strict=True)]
            )
        )
        arrays = [{name: numpy.array(column, dtype=numpy.int32) for name, column in row.items()} for row in listed]
        wide = [{name: column.astype(numpy.int64) for name, column in row.items()} for row in arrays]
        tensors = [{name: torch.from_numpy(column) for name, column in row.items()} for row in wide]
        kind = pyarrow.list_(pyarrow.int32())
        table = pyarrow.table({name: pyarrow.array([row[name] for row in arrays], kind) for name in arrays[0]})
        scalars = [{name: table[name][place] for name in table.column_names} for place in range(rows)]
        forms = {
            "numpy int64 (with_format('numpy'))": wide,
            "numpy int32": arrays,
            "torch (with_format('torch'))": tensors,
            "one Arrow table": table,
            "Arrow scalars": scalars,
            "Python lists (no format)": listed,
        }
        expected = trl(listed)
        expected["labels"][:, 0] = -100
        shape = (3, *expected["input_ids"].shape)
        ways.setdefault("(only writing the batch's memory)", []).append(lambda shape=shape: numpy.full(shape, 1))  # type: ignore[misc]
        theirs.append(lambda listed=listed: trl(listed))  # type: ignore[misc]
        for name, form in forms.items():
            assert all(torch.equal(expected[key], column) for key, column in ours(form).items()), name
            ways.setdefault(name, []).append(lambda form=form: ours(form))  # type: ignore[misc]
    return compare(theirs, ways, pairs)


def measure_loading(tokenizer: Any, markers: TurnMarkers, rows: int, pairs: int) -> dict[str, dict[str, float]]:
    """Compare whole passes of a shuffling `DataLoader`, fetching included: TRL's on the dataset that TRL makes."""
    import datasets
    from torch.utils.data import DataLoader
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    datasets.disable_progress_bars()
    count = 8 * BATCHES * rows // 4
    ids = [row[:MAX_LENGTH] for row in sample_batches(tokenizer, count, seed=7)]
    columns = {"input_ids": ids, "labels": mask_labels(ids, markers)}
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for kind in ("int32", "int64"):
            sequence = datasets.Sequence(datasets.Value(kind))
            features = datasets.Features(dict.fromkeys(columns, sequence))
            datasets.Dataset.from_dict(columns, features=features).save_to_disk(f"{folder}/{kind}")
            made[kind] = datasets.load_from_disk(f"{folder}/{kind}")
        trl, ours, arrays = DataCollatorForLanguageModeling(pad_token_id=128001), PadCollator(128001), made["int32"]

        def load(dataset: Any, collate: Any) -> Side:
            def run() -> object:
                draw = torch.Generator().manual_seed(0)
                return [*DataLoader(dataset, rows, shuffle=True, collate_fn=collate, generator=draw)][-1]

            return run

        ways: dict[str, Sequence[Side]] = {
            "numpy, as prepared.encode returns": [load(arrays.with_format("numpy"), ours)],
            "with_format('torch')": [load(arrays.with_format("torch"), ours)],
            "Python lists (no format)": [load(arrays, ours)],
        }
        return compare([load(made["int64"], trl)], ways, pairs)


def find_unsloth(folder: str | None) -> Path | None:
    """Return the module of Unsloth that masks; it is not imported as a package, which asks for a GPU."""
    if folder is None:
        found = importlib.util.find_spec("unsloth_zoo")
        folder = str(Path(found.origin).parent.parent) if found is not None and found.origin else None
    path = Path(folder or "", "unsloth_zoo", "dataset_utils.py")
    return path if folder is not None and path.exists() else None


def measure_masking(tokenizer: Any, markers: TurnMarkers, path: Path, pairs: int) -> dict[str, dict[str, float]]:
    """Compare with the function that Unsloth's `train_on_responses_only` maps over a dataset."""
    spec = importlib.util.spec_from_file_location("unsloth_dataset_utils", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    mask = module.train_on_responses_only(None, USER, ASSISTANT, tokenizer=tokenizer, return_function=True)

    rows = sample_batches(tokenizer, MASKED_ROWS, seed=99)
    arrays = [numpy.array(row, dtype=numpy.int32) for row in rows]
    lengths = numpy.array([len(row) for row in rows])
    flat = numpy.concatenate(arrays)
    wide = flat.astype(numpy.int64)
    expected = mask({"input_ids": rows})["labels"]
    joined = numpy.concatenate([numpy.array(own, dtype=numpy.int32) for own in expected])
    assert expected == mask_labels(rows, markers)
    assert (mask_labels(flat, markers, lengths=lengths) == joined).all()
    assert (mask_labels(flat, markers) == joined).all()
    ways: dict[str, Sequence[Side]] = {
        "flat int32": [lambda: mask_labels(flat, markers)] * BATCHES,
        "flat int32 with lengths": [lambda: mask_labels(flat, markers, lengths=lengths)] * BATCHES,
        "flat int64": [lambda: mask_labels(wide, markers)] * BATCHES,
        "numpy rows": [lambda: mask_labels(arrays, markers)] * BATCHES,
        "Python lists": [lambda: mask_labels(rows, markers)] * BATCHES,
    }
    return compare([lambda: mask({"input_ids": rows})], ways, pairs)


def main() -> None:
    """Print the tables, or the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--unsloth", metavar="FOLDER", help="site-packages that hold unsloth_zoo")
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = build_tokenizer("3.1-instruct")
    markers = find_markers(tokenizer)
    tables = {
        f"collate {rows} rows: TRL on lists / PadCollator on ...": measure_collating(
            tokenizer, markers, rows, options.pairs
        )
        for rows in (8, 64)
    }
    title = "load batches of 64 rows: TRL's dataset and collator / DataLoader with PadCollator on ..."
    tables[title] = measure_loading(tokenizer, markers, 64, options.pairs)
    path = find_unsloth(options.unsloth)
    if path is not None:
        title = f"ids -> labels, {MASKED_ROWS} rows: Unsloth on lists / mask_labels on ..."
        tables[title] = measure_masking(tokenizer, markers, path, options.pairs)
    if options.json:
        print(json.dumps(tables, indent=2))
        return
    for title, table in tables.items():
        print(title)
        for name, row in table.items():
            print(f"  {name:36} {row['ratio']:6.1f}x  {row['theirs_us']:9.0f} us / {row['ours_us']:8.0f} us")
    if path is None:
        print("unsloth_zoo is not installed here. Name the folder that holds it: --unsloth FOLDER")


if __name__ == "__main__":
    main()
