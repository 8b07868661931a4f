"""Unsloth: its notebooks' route: text by the chat template, `SFTTrainer`, `train_on_responses_only`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import measure

import unsloth  # isort: skip  # noqa: F401  # before transformers and trl
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer
from unsloth.chat_templates import train_on_responses_only

options = measure.read_options()

tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
tokenizer.pad_token = "<|finetune_right_pad_id|>"
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes))
dataset = Dataset.from_file(str(options.data))


def write_texts(examples: dict[str, list]) -> dict[str, list[str]]:
    """As the notebooks have it."""
    conversations = examples["messages"]
    return {
        "text": [
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
            for messages in conversations
        ]
    }


with measure.Work() as work:
    dataset = dataset.map(write_texts, batched=True)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=dataset,
        args=SFTConfig(
            output_dir="out",
            dataset_text_field="text",
            max_length=measure.MAX_LENGTH,
            report_to=[],
            use_cpu=True,
            bf16=False,
            fp16=False,
        ),
    )
    trainer = train_on_responses_only(
        trainer,
        instruction_part="<|start_header_id|>user<|end_header_id|>\n\n",
        response_part="<|start_header_id|>assistant<|end_header_id|>\n\n",
        num_proc=1,
    )

table = trainer.train_dataset.with_format("arrow")[:]
ids, lengths = measure.flatten(table["input_ids"])
labels, _ = measure.flatten(table["labels"])
measure.report(options, work, ids, labels, lengths)
