"""The limit: an engine alone, on text that is rendered already, to ids in one flat array. No labels.

--engine tokenizers | fastokens
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure
import numpy
from transformers import AutoTokenizer

options = measure.read_options("engine")

CHUNK = 2000  # conversations

tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
conversations = measure.read_table(options.data)["messages"].to_pylist()
texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
del conversations
chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
ids, lengths = [], []
if options.engine == "fastokens":
    import fastokens

    engine = fastokens.Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    engine.encode_batch_flat(texts[:8])
    with measure.Work() as work:
        for chunk in chunks:
            flat, offsets = engine.encode_batch_flat(chunk)
            ids.append(numpy.frombuffer(flat, numpy.int32))
            lengths.append(numpy.diff(numpy.frombuffer(offsets, numpy.int64)))
else:
    backend = tokenizer.backend_tokenizer
    encode = backend.encode_batch_fast  # without offsets
    encode(texts[:8], add_special_tokens=False)
    with measure.Work() as work:
        for chunk in chunks:
            rows = [numpy.array(encoding.ids, numpy.int32) for encoding in encode(chunk, add_special_tokens=False)]
            ids.append(numpy.concatenate(rows))
            lengths.append(numpy.fromiter(map(len, rows), numpy.int64, len(rows)))
measure.report(options, work, numpy.concatenate(ids), None, numpy.concatenate(lengths))
