"""Unsloth: the inner function of `train_on_responses_only`, in batches of 1,000 rows as `datasets.map` hands out.

The lists of ids are made before the clock starts; the median of five passes. --rows-from as for labels_ours.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure

import unsloth  # isort: skip  # noqa: F401  # before transformers
import numpy
from transformers import AutoTokenizer
from unsloth_zoo.dataset_utils import train_on_responses_only

options = measure.read_options("rows-from")

label_batch = train_on_responses_only(
    None,
    instruction_part="<|start_header_id|>user<|end_header_id|>\n\n",
    response_part="<|start_header_id|>assistant<|end_header_id|>\n\n",
    tokenizer=AutoTokenizer.from_pretrained(options.tokenizer),
    return_function=True,
)
ids, lengths = (numpy.load(Path(options.rows_from) / f"{name}.npy") for name in ("ids", "lengths"))
rows = [row.tolist() for row in numpy.split(ids, numpy.cumsum(lengths)[:-1])]
batches = [{"input_ids": rows[start : start + 1000]} for start in range(0, len(rows), 1000)]


def label() -> list[list[int]]:
    """Return the labels of all batches."""
    return [row for batch in batches for row in label_batch(batch)["labels"]]


work, labels = measure.work_often(label)
flat, _ = measure.flatten_lists(labels)
measure.report(options, work, ids, flat, lengths)
