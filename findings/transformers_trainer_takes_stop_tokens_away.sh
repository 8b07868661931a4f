#!/usr/bin/env bash
# transformers 4.57.6, torch 2.13.0: training leaves one of three stop tokens in config.json, and no BOS.
#
# Valid input: a model whose config lists three stop tokens and a BOS, as that of Llama 3.1 does, and a tokenizer whose
# EOS is one of the three and which has no BOS, as that of Qwen 2.5. One step of Trainer with it, then save_model.
# One expects: the tokens of the model to stay as they are, since the tokenizer contradicts none of them.
# What happens: Trainer compares the tokenizer's EOS with the whole list, finds a difference, and puts the one id in the
# list's place; the BOS becomes null. generation_config.json keeps the three, and one of them twice: the two files now
# differ, and whoever reads config.json alone does not stop at two of the tokens. transformers 5.23.0 leaves both alone.
# Seen:
#   before: {'bos_token_id': 1, 'eos_token_id': [3, 4, 5]}
#   config.json: {'bos_token_id': None, 'eos_token_id': 5}
#   generation_config.json: {'bos_token_id': None, 'eos_token_id': [5, 3, 4, 5]}
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==4.57.6 accelerate==1.15.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import json

from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

TOKENS = ("<pad>", "<begin>", "word", "<end of text>", "<end of message>", "<end of turn>")
backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS)}, unk_token="word"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end of turn>")
sizes = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
model = LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=[3, 4, 5]))
NAMES = ("bos_token_id", "eos_token_id")
before = {name: getattr(model.config, name) for name in NAMES}
print("before:", before)

arguments = TrainingArguments("out", max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no")
rows = [{"input_ids": [1, 2, 5], "labels": [1, 2, 5]}] * 2
trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
trainer.train()
trainer.save_model("saved")
seen = []
for file in ("config.json", "generation_config.json"):
    saved = json.load(open(f"saved/{file}"))
    seen.append({name: saved.get(name) for name in NAMES})
    print(f"{file}:", seen[-1])
assert before == {"bos_token_id": 1, "eos_token_id": [3, 4, 5]}, "changed"
assert seen[0] == {"bos_token_id": None, "eos_token_id": 5}, "changed"
assert seen[1] == {"bos_token_id": None, "eos_token_id": [5, 3, 4, 5]}, "changed"
PY
