#!/usr/bin/env bash
# trl 1.16.0: DPO on answers of several turns scores and trains what the user says in them.
#
# Valid input: a preference pair of messages whose chosen and rejected sides go on for another question and answer, which
# is how conversations are compared.
# One expects: the log probabilities of what the model said: SFTTrainer with assistant_only_loss masks the user's turn.
# What happens: completion_mask is 1 for everything behind the shared prompt, the user's question and its header
# included; DPOConfig has no assistant_only_loss.
# Seen (what the mask of the chosen side selects):
#   one<|im_end|>\n<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 trl==1.16.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import copy
from pathlib import Path

import trl
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
backend = Tokenizer(models.BPE(letters, []))
backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
template = Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"
tokenizer.chat_template = template.read_text(encoding="utf-8")


def answer(first, second):
    return [
        {"role": "assistant", "content": first},
        {"role": "user", "content": "More?"},
        {"role": "assistant", "content": second},
    ]


rows = Dataset.from_list(
    [{"prompt": [{"role": "user", "content": "Hi"}], "chosen": answer("one", "two"), "rejected": answer("1", "2")}] * 2
)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
)
trainer = trl.DPOTrainer(
    model=model,
    ref_model=copy.deepcopy(model),
    args=trl.DPOConfig(output_dir="out", use_cpu=True, report_to=[], per_device_train_batch_size=1),
    train_dataset=rows,
    processing_class=tokenizer,
)
batch = next(iter(trainer.get_train_dataloader()))
ids, mask = batch["input_ids"][0], batch["completion_mask"][0]
seen = tokenizer.decode(ids[mask.bool()])
print(seen.replace("\n", "\\n"))
assert seen == (
    "one<|im_end|>\n<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
), "changed"
assert "assistant_only_loss" not in trl.DPOConfig.__dataclass_fields__, "changed"
PY
