#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (CPU): documents of one flattened row see one another, and nothing says so.
#
# Valid input: two documents from DataCollatorWithFlattening, whose position ids begin anew with each document, given to
# a model without an attention mask, as the collator makes them.
# One expects: each document computed as if it stood alone, or an error where a model cannot do that.
# What happens: Llama keeps documents apart with use_cache=False, and not with the default. Falcon and GPT-OSS (eager)
# never bring position ids to the attention mask. LFM2's convolution and Mamba 2's state run on from one document into
# the next. None of them raises or warns. Shown by a gradient: that of the second document's logits at the embeddings of
# the first, which is exactly 0 where the two are apart.
# Seen:
#   llama, use_cache=False: apart
#   llama, default: sees the document before
#   falcon, use_cache=False: sees the document before
#   gpt_oss, use_cache=False: sees the document before
#   lfm2, use_cache=False: sees the document before
#   mamba2, use_cache=False: sees the document before
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DataCollatorWithFlattening
from transformers.utils import logging

logging.set_verbosity_error()  # of configurations and missing kernels; nothing is said about documents without it either
DOCUMENTS = [[5, 6, 7, 8, 9], [10, 11, 12]]
FIRST = len(DOCUMENTS[0])
batch = DataCollatorWithFlattening(return_tensors="pt")([{"input_ids": ids} for ids in DOCUMENTS])
assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]] and "attention_mask" not in batch
SIZES = {
    "vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}


def sees_the_first(family, arguments, attention="sdpa", **sizes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    held = []

    def keep(module, given, embedded):
        held.append(embedded.detach().requires_grad_())
        return held[0]

    model.get_input_embeddings().register_forward_hook(keep)
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], **arguments).logits
    gradient = torch.autograd.grad(logits[0, FIRST:].square().sum(), held[0])[0]
    return bool(gradient[0, :FIRST].abs().max() > 0)


off = {"use_cache": False}
seen = {
    "llama, use_cache=False": sees_the_first("llama", off),
    "llama, default": sees_the_first("llama", {}),
    "falcon, use_cache=False": sees_the_first("falcon", off),
    "gpt_oss, use_cache=False": sees_the_first(
        "gpt_oss", off, "eager", num_local_experts=2, num_experts_per_tok=1, head_dim=8
    ),
    "lfm2, use_cache=False": sees_the_first("lfm2", off, layer_types=["conv", "full_attention"]),
    "mamba2, use_cache=False": sees_the_first(
        "mamba2", off, "eager", num_heads=8, head_dim=8, expand=2, n_groups=1, state_size=8
    ),
}
for name, leaks in seen.items():
    print(f"{name}: {'sees the document before' if leaks else 'apart'}")
assert list(seen.values()) == [False] + [True] * 5, "changed"
PY
