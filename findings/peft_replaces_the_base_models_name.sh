#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0: an adapter does not keep the name of its base model.
#
# Valid input: a LoraConfig that says base_model_name_or_path, a field of its own, and a model that was loaded from a
# folder, or made in memory.
# One expects: adapter_config.json to name the base model that the user gave, as where the weights lie in a copy here and
# the adapter is published.
# What happens: get_peft_model writes the folder's path, or null, into the user's config, with a warning, and it is what
# save_pretrained writes: elsewhere the path names nothing, and null names no model at all.
# Setting the field again behind get_peft_model keeps it.
# Seen:
#   loaded from a folder: warned True, saved 'copy'
#   made in memory:       warned True, saved None
#   set again behind it:  warned True, saved 'example/base'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 peft==0.21.2 transformers==5.23.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python - 2>log <<'PY' || { tail -5 log; exit 1; }
import json
import warnings

from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1}


def make():
    return LlamaForCausalLM(LlamaConfig(**SIZES))


make().save_pretrained("copy")
seen = []
for title, model, again in (
    ("loaded from a folder:", LlamaForCausalLM.from_pretrained("copy"), False),
    ("made in memory:", make(), False),
    ("set again behind it:", make(), True),
):
    config = LoraConfig(base_model_name_or_path="example/base", target_modules=["q_proj"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = get_peft_model(model, config)
    if again:
        config.base_model_name_or_path = "example/base"
    adapted.save_pretrained("adapter")
    saved = json.load(open("adapter/adapter_config.json"))["base_model_name_or_path"]
    warned = any("was renamed" in str(warning.message) for warning in caught)
    print(f"{title:21} warned {warned}, saved {saved!r}")
    seen.append((warned, saved))
assert seen == [(True, "copy"), (True, None), (True, "example/base")], "changed"
PY
