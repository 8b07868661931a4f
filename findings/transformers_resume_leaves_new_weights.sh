#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: a run that resumes keeps the weights that its model came with.
#
# Valid input: a model of Gemma 3 (with pictures) or Mixtral; Trainer saves a checkpoint, and
# train(resume_from_checkpoint=True) begins from it.
# One expects: the weights of the checkpoint.
# What happens: save_pretrained writes these families under the names of their published checkpoints
# (language_model.model...), and from_pretrained converts them. Trainer loads the file without that, into names that it
# does not hold, not strictly. The run goes on from the weights of the model as it was made, with the optimizer, the
# schedule and the step of the checkpoint. A warning lists missing and unexpected keys. Llama 3.2 Vision, Qwen2.5-VL,
# Mistral 3 and Qwen3-MoE save names that differ from those of their models, too; their runs were not tried.
# Seen (a learning rate of 0, so that only loading changes a weight):
#   Gemma 3: the weight of the checkpoint False, that of the new model True
#   Mixtral: the weight of the checkpoint False, that of the new model True
#   Llama: the weight of the checkpoint True, that of the new model False
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import shutil

import torch
import transformers
from transformers import Trainer, TrainingArguments

TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "pad_token_id": 0}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 7, "vision_use_head": False}


def gemma3():
    config = transformers.Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4)
    return transformers.Gemma3ForConditionalGeneration(config)


def mixtral():
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**TEXT, num_local_experts=2))


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT))


def make(kind, seed):
    torch.manual_seed(seed)
    return kind()


def train(model, steps, resume):
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3], "token_type_ids": [0, 0, 0]}] * 8
    arguments = TrainingArguments(
        "out", max_steps=steps, save_steps=1, learning_rate=0.0, use_cpu=True, report_to=[], disable_tqdm=True
    )
    Trainer(model, arguments, train_dataset=rows).train(resume_from_checkpoint=resume)


def weight_of(model):
    names = ("up_proj.weight", "experts.gate_up_proj")
    return next(value for name, value in model.named_parameters() if name.endswith(names))


for title, kind, loads in (("Gemma 3", gemma3, False), ("Mixtral", mixtral, False), ("Llama", llama, True)):
    shutil.rmtree("out", ignore_errors=True)
    saved, resumed = make(kind, 0), make(kind, 1)
    train(saved, 1, None)
    train(resumed, 2, True)
    is_saved = torch.equal(weight_of(resumed), weight_of(saved))
    is_new = torch.equal(weight_of(resumed), weight_of(make(kind, 1)))
    print(f"{title}: the weight of the checkpoint {is_saved}, that of the new model {is_new}")
    assert (is_saved, is_new) == (loads, not loads), "changed"
PY
