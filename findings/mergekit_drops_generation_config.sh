#!/usr/bin/env bash
# mergekit 0.1.5, transformers 5.23.0, torch 2.13.0: naming a tokenizer or a chat template costs the stop tokens.
#
# Valid input: two models of one shape with a tokenizer each, whose generation_config.json names a second stop token, the
# one that ends a turn, and a temperature; merged three times: plainly, with `tokenizer_source: base`, and with
# `chat_template: auto`, the settings for merges of chat models.
# One expects: generation_config.json beside the merged weights each time, as it is beside those of a plain merge.
# What happens: mergekit copies it together with the files of the tokenizer. Where it builds or saves a tokenizer, it
# copies no files, and says nothing: the merged model stops at the one token of config.json alone, runs on behind its
# answer, and samples with other settings. The weights are the same.
# Seen:
#   plain:                  stops at [2, 3], temperature 0.6
#   tokenizer_source: base  stops at 2, temperature None
#   chat_template: auto     stops at 2, temperature None
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6 peft==0.21.0 click==8.5.1 \
    immutables==0.21 pydantic==2.14.4 scipy==1.17.1
env/bin/pip install --quiet --disable-pip-version-check --no-deps mergekit==0.1.5
HF_HUB_OFFLINE=1 HF_HOME="$work/home" HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error \
    env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

here = Path.cwd()
words = ["<unk>", "<s>", "</s>", "<end>", *"abcdefgh"]
backend = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, [], unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
backend.add_special_tokens(words[:4])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="<end>")
tokenizer.chat_template = "{{ messages[0].content }}<end>"
config = LlamaConfig(
    vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
    bos_token_id=1, eos_token_id=2,
)
for seed, name in enumerate(("base", "tuned")):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[2, 3], do_sample=True, temperature=0.6)
    model.save_pretrained(here / name)
    tokenizer.save_pretrained(here / name)

seen, weights = [], []
for place, option in enumerate(({}, {"tokenizer_source": "base"}, {"chat_template": "auto"})):
    recipe = {
        "merge_method": "linear",
        "dtype": "float32",
        "base_model": str(here / "base"),
        "models": [{"model": str(here / name), "parameters": {"weight": 0.5}} for name in ("base", "tuned")],
    }
    target = here / f"merged{place}"
    run_merge(MergeConfiguration.model_validate(recipe | option), out_path=str(target), options=MergeOptions(quiet=True))
    merged = AutoModelForCausalLM.from_pretrained(target)
    settings = merged.generation_config
    label = " ".join(f"{key}: {value}" for key, value in option.items()) or "plain:"
    print(f"{label:23} stops at {settings.eos_token_id}, temperature {settings.temperature}")
    seen.append((settings.eos_token_id, settings.temperature, (target / "generation_config.json").exists()))
    weights.append(merged.state_dict())
assert seen == [([2, 3], 0.6, True), (2, None, False), (2, None, False)], "changed"
assert all(torch.equal(value, other[key]) for other in weights for key, value in weights[0].items()), "changed"
PY
