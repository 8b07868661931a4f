"""Ids to labels alone: `mask_labels` on one flat array of all rows' ids; the median of five calls.

--rows-from is a folder with ids.npy, labels.npy and lengths.npy, as `measure.report` keeps them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import measure
import numpy
from transformers import AutoTokenizer

from llama_padfix import find_markers, mask_labels

options = measure.read_options("rows-from")

markers = find_markers(AutoTokenizer.from_pretrained(options.tokenizer))
ids, lengths = (numpy.load(Path(options.rows_from) / f"{name}.npy") for name in ("ids", "lengths"))
work, labels = measure.work_often(lambda: mask_labels(ids, markers))
measure.report(options, work, ids, labels.astype(numpy.int32), lengths)
