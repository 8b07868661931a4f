"""transformers: one batched `apply_chat_template` with a generation template (TRL's for Llama 3), then labels."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from importlib.metadata import distribution

import measure
from transformers import AutoTokenizer

options = measure.read_options()

tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
template = Path(str(distribution("trl").locate_file("trl/chat_templates/llama3_training.jinja"))).read_text("utf-8")
table = measure.read_table(options.data)
with measure.Work() as work:
    conversations = table["messages"].to_pylist()
    encoded = tokenizer.apply_chat_template(
        conversations,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    rows = [
        [token if trained else -100 for token, trained in zip(ids, mask, strict=True)]
        for ids, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    ]

flat, lengths = measure.flatten_lists(encoded["input_ids"])
labels, _ = measure.flatten_lists(rows)
measure.report(options, work, flat, labels, lengths)
