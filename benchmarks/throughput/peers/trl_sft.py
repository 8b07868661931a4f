"""TRL: `SFTTrainer._prepare_dataset` with `assistant_only_loss`, and TRL's own training template for Llama 3.

`--max-length none` leaves out the passes that truncate and filter.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure
from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template

options = measure.read_options("max-length")

tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
dataset = Dataset.from_file(str(options.data))
config = SFTConfig(
    output_dir=str(options.work / "out"),
    assistant_only_loss=True,
    max_length=None if options.max_length == "none" else measure.MAX_LENGTH,
    report_to=[],
    use_cpu=True,
    bf16=False,
)
# The trainer without a model: its constructor sets just these three before it prepares a dataset.
trainer = object.__new__(SFTTrainer)
trainer.chat_template = get_training_chat_template(tokenizer)
trainer.completion_only_loss = False
trainer._tokenizer = tokenizer
with measure.Work() as work:
    prepared = trainer._prepare_dataset(dataset, tokenizer, config, False, None, "train")

table = prepared.with_format("arrow")[:]
ids, lengths = measure.flatten(table["input_ids"])
labels, _ = measure.flatten(table["labels"])
measure.report(options, work, ids, labels, lengths)
