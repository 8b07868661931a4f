"""Print the CPU seconds that `dedupe_bos` takes for a million rows: python benchmarks/bos.py [ROWS].

Each row has about 100 tokens and starts with two BOS: input_ids and labels are int32, attention_mask int8. ROWS are
measured (300,000 by default; 100,000 as lists and arrays) and counted as a million. A dataset is read from its file,
and the cut one is written.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
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


def main() -> None:
    """Print a line for each kind of value."""
    import datasets
    import numpy as np
    import torch

    from llama_padfix import dedupe_bos

    datasets.disable_progress_bars()
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    table = make_table(rows)
    few = table[:LISTS].to_pydict()
    array = np.full((LISTS, 150), PAD, np.int32)
    for place, ids in enumerate(few["input_ids"]):
        array[place, : len(ids)] = ids
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset(table).save_to_disk(folder)
        kinds: dict[str, Any] = {
            "lists of ids": few["input_ids"],
            "lists with labels and mask": few,
            "rows with labels and mask": [dict(zip(few, row, strict=True)) for row in zip(*few.values(), strict=True)],
            "a numpy array of ids": array,
            "a torch tensor of ids": torch.from_numpy(array),
            "a table of ids": table.select(["input_ids"]),
            "a table with labels and mask": table,
            "a dataset with labels and mask": datasets.load_from_disk(folder),
        }
        for name, value in kinds.items():
            gc.collect()
            start = time.process_time()
            made = dedupe_bos(value, bos_token_id=BOS, pad_token_id=PAD)
            spent = time.process_time() - start  # without the time to free what was made
            done = len(made["input_ids"]) if isinstance(made, dict) else len(made)
            print(f"{name:32} {spent * 1e6 / done:.2f} CPU s for a million rows", flush=True)
            del made


if __name__ == "__main__":
    main()
