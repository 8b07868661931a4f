#!/usr/bin/env bash
# trl 1.16.0, transformers 5.23.0: DPOTrainer's reference is not the model that it was given.
#
# Valid input: a small LlamaForCausalLM given to DPOTrainer as `model`, without `ref_model`. The documentation: "If None,
# the trainer will automatically use the initial policy corresponding to model, i.e. the model state before DPO training
# starts".
# One expects: a reference with the weights of the model in memory.
# What happens: the reference is loaded anew from the name in the model's configuration. A model that was changed after
# loading (new rows, a merged adapter) gets the old weights as its reference. A model without a name fails, after its
# data was tokenized, with huggingface_hub's complaint about a repository id.
# Seen:
#   model without a name: OSError: Repo id must use alphanumeric chars, '-', '_' or '.'. ...
#   model of a folder, a weight doubled in memory: reference 1.0, model 2.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 trl==1.16.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "b", "c"])}
backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
)
config = LlamaConfig(
    vocab_size=6, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
)
rows = Dataset.from_list([{"prompt": "a ", "chosen": "b", "rejected": "c"}] * 4)


def make_trainer(model):
    arguments = DPOConfig(output_dir="out", use_cpu=True, report_to=[])
    return DPOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)


try:
    make_trainer(LlamaForCausalLM(config))
    seen = "no error"
except OSError as error:
    seen = f"OSError: {error}"
print("model without a name:", seen)
assert seen.startswith("OSError: Repo id must use"), "changed"

made = LlamaForCausalLM(config)
torch.nn.init.ones_(made.model.norm.weight)
made.save_pretrained("folder")
model = AutoModelForCausalLM.from_pretrained("folder")
with torch.no_grad():
    model.model.norm.weight.mul_(2)
trainer = make_trainer(model)
reference, trained = (each.model.norm.weight[0].item() for each in (trainer.ref_model, model))
print(f"model of a folder, a weight doubled in memory: reference {reference}, model {trained}")
assert (reference, trained) == (1.0, 2.0), "changed"
PY
