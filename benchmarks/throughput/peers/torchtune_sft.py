"""torchtune: `chat_dataset` with its Llama 3 tokenizer, each row read once.

Its tokenizer is tiktoken's over Meta's `tokenizer.model`, not a `tokenizer.json`. Rows are made when they are read, so
one pass is measured without keeping them, and a second one, not measured, collects them where they are asked for.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure
import numpy
from torchtune.datasets import chat_dataset
from torchtune.models.llama3 import llama3_tokenizer

options = measure.read_options()

tokenizer = llama3_tokenizer(str(options.tokenizer.parent / "tokenizer.model"))
dataset = chat_dataset(
    tokenizer,
    source="arrow",
    data_files=str(options.data),
    conversation_column="messages",
    conversation_style="openai",
    cache_dir=str(options.work),
)
tokens = 0
with measure.Work() as work:
    for place in range(len(dataset)):
        tokens += len(dataset[place]["labels"])

arrays = [None, None, None]
if options.rows_to is not None:
    ids, labels = [], []
    for place in range(len(dataset)):
        row = dataset[place]
        ids.append(numpy.array(row["tokens"], numpy.int32))
        labels.append(numpy.array(row["labels"], numpy.int32))
    lengths = numpy.fromiter(map(len, ids), numpy.int64, len(ids))
    arrays = [numpy.concatenate(ids), numpy.concatenate(labels), lengths]
measure.report(options, work, *arrays, rows=len(dataset), tokens=tokens)
