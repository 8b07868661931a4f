"""llama_padfix: conversations to ids and labels.

--engine tokenizers | fastokens | auto
--way table     `ChatEncoder.encode_table`, 2,000 rows at a time; the result stays in memory (the default)
--way dataset   `encode_dataset` over a `datasets.Dataset`, which streams to disk
--warm no       begins with the first row, as a process does that has just been started: by default 64 rows that are
                not of the data are encoded first, so that engine and proofs are loaded, as they are for each peer
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import measure
from transformers import AutoTokenizer

from llama_padfix import ChatEncoder

options = measure.read_options("engine", "way", "warm")

CHUNK = 2000  # conversations
WARM = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello!"}]

tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
encoder = ChatEncoder(tokenizer, measure.MAX_LENGTH, engine=options.engine)
with measure.Work() as warming:
    if options.warm != "no":
        import pyarrow

        encoder.encode_table(pyarrow.Table.from_pylist([{"messages": WARM}] * 64))
if options.way == "dataset":
    from datasets import Dataset

    from llama_padfix.encoding.dataset.encode import encode_dataset

    with measure.Work() as work:
        encoded = encode_dataset(encoder, Dataset.from_file(str(options.data)), progress=False)
        rows = len(encoded)
    tables = [encoded.with_format("arrow")[:]] if options.rows_to is not None else []
else:
    table = measure.read_table(options.data)
    tables = []
    with measure.Work() as work:
        for start in range(0, len(table), CHUNK):
            tables.append(encoder.encode_table(table.slice(start, CHUNK), start))
    rows = sum(map(len, tables))
if tables:
    import pyarrow

    whole = pyarrow.concat_tables(tables)
    ids, lengths = measure.flatten(whole["input_ids"])
    labels, _ = measure.flatten(whole["labels"])
    measure.report(options, work, ids, labels, lengths, warming=warming.cpu)
else:
    measure.report(options, work, warming=warming.cpu, rows=rows)
