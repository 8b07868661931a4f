"""Axolotl: its strategy chat_template through `TokenizedPromptDataset`, without the passes that filter and save."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure
from axolotl.datasets import TokenizedPromptDataset
from axolotl.prompt_strategies.chat_template import load
from axolotl.utils.dict import DictDefault
from datasets import Dataset
from transformers import AutoTokenizer

options = measure.read_options()

tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
dataset = Dataset.from_file(str(options.data))
config = DictDefault(
    {"train_on_inputs": False, "sequence_len": measure.MAX_LENGTH, "chat_template": "tokenizer_default"}
)
kind = DictDefault({"type": "chat_template", "field_messages": "messages", "chat_template": "tokenizer_default"})
with measure.Work() as work:
    dataset = TokenizedPromptDataset(load(tokenizer, config, ds_cfg=kind), dataset)

table = dataset.with_format("arrow")[:]
ids, lengths = measure.flatten(table["input_ids"])
labels, _ = measure.flatten(table["labels"])
measure.report(options, work, ids, labels, lengths)
