"""Print the CPU seconds that `dedupe_bos` takes for a million rows: python benchmarks/bos.py [ROWS [ROUNDS [KIND]]].

Each row has about 100 tokens and starts with two BOS: input_ids and labels are int32, attention_mask int8. ROWS are
measured (300,000 by default; 100,000 as lists and arrays) and counted as a million. A dataset is read from its file,
and the cut one is written. All kinds are measured in each of ROUNDS (3 by default), in turn from the first and from
the last; the median is printed, and the lowest and highest time. KIND: only those whose name holds it (dataset).

Beside lists stands what `row[1:]` of each list takes, which nothing that returns lists can save, and beside a dataset
what `datasets.map` takes with a function that changes nothing.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

BOS, PAD, LISTS = 1, 0, 100_000


def make_table(rows: int) -> Any:
    """Return an Arrow table of rows that start with two BOS."""
    import numpy as np
    import pyarrow

    draw = np.random.default_rng(0)
    lengths = draw.integers(50, 150, rows)
    ids = draw.integers(2, 30_000, int(lengths.sum())).astype(np.int32)
    ends = np.cumsum(lengths)
    for place in (0, 1):
        ids[ends - lengths + place] = BOS
    edges = pyarrow.array(np.append(0, ends).astype(np.int32))
    flat = {
        "input_ids": ids,
        "labels": np.where(ids == BOS, np.int32(-100), ids),
        "attention_mask": np.ones(len(ids), np.int8),
    }
    columns = {name: pyarrow.ListArray.from_arrays(edges, pyarrow.array(values)) for name, values in flat.items()}
    return pyarrow.table(columns)


def make_values(table: Any, folder: str) -> dict[str, Any]:
    """Return the same rows as values of each kind that is measured."""
    import datasets
    import numpy as np
    import torch

    few = table[:LISTS].to_pydict()
    array = np.full((LISTS, 150), PAD, np.int32)
    for place, ids in enumerate(few["input_ids"]):
        array[place, : len(ids)] = ids
    datasets.Dataset(table).save_to_disk(folder)
    return {
        "lists of ids": few["input_ids"],
        "lists with labels and mask": few,
        "rows with labels and mask": [dict(zip(few, row, strict=True)) for row in zip(*few.values(), strict=True)],
        "a numpy array of ids": array,
        "a torch tensor of ids": torch.from_numpy(array),
        "a table of ids": table.select(["input_ids"]),
        "a table with labels and mask": table,
        "a dataset with labels and mask": datasets.load_from_disk(folder),
    }


def slice_each(columns: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
    """Return each list without its first item, made while the garbage collector is off."""
    gc.disable()
    try:
        return {name: [row[1:] for row in rows] for name, rows in columns.items()}
    finally:
        gc.enable()


def map_nothing(dataset: Any) -> Any:
    """Return what `datasets.map` makes of rows that stay as they are."""
    return dataset.with_format("arrow").map(lambda batch: batch, batched=True, batch_size=10_000)


def measure(make: Callable[[], Any]) -> float:
    """Return the CPU seconds for a million rows, without those that free what was made."""
    gc.collect()
    start = time.process_time()
    made = make()
    spent = time.process_time() - start
    done = len(made["input_ids"]) if isinstance(made, dict) else len(made)
    for file in getattr(made, "cache_files", ()):
        Path(file["filename"]).unlink()
    return spent * 1e6 / done


def main() -> None:
    """Print a line for each kind of value."""
    import datasets

    from llama_padfix import dedupe_bos

    datasets.disable_progress_bars()
    datasets.disable_caching()
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        values = make_values(make_table(rows), folder)
        cut = partial(dedupe_bos, bos_token_id=BOS, pad_token_id=PAD)
        makes: dict[str, Callable[[], Any]] = {name: partial(cut, value) for name, value in values.items()}
        makes["- row[1:] of lists of ids"] = partial(slice_each, {"input_ids": values["lists of ids"]})
        makes["- row[1:] with labels and mask"] = partial(slice_each, values["lists with labels and mask"])
        makes["- datasets.map without a change"] = partial(map_nothing, values["a dataset with labels and mask"])
        if len(sys.argv) > 3:
            makes = {name: make for name, make in makes.items() if sys.argv[3] in name}
        spent: dict[str, list[float]] = {name: [] for name in makes}
        for number in range(rounds):
            for name in list(makes)[:: -1 if number % 2 else 1]:
                spent[name].append(measure(makes[name]))
    for name, seconds in spent.items():
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        print(f"{name:32} {middle:.2f} CPU s for a million rows ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
