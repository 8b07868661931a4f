#!/usr/bin/env bash
# trl 1.16.0, transformers 5.23.0: what GRPOTrainer appends behind a tool call repeats what stands there already.
#
# Valid input: GLM 4.5's chat template, whose calls end with the stop token <|observation|>; Gemma 4's, whose tool results
# stand inside the model's turn, with a tokenizer whose EOS is <turn|>, which ends its turns. Both templates ship with trl.
# One expects: the sampled ids and what is appended are the text that the template writes for the call and its result.
# What happens: the text behind the call is cut at the last EOS of a rendered example. GLM's has none there, so that
# <|observation|>, which the model has sampled, is appended once more. Gemma 4's last EOS ends the question, so that the
# model reads an example's call behind its own.
# Seen:
#   GLM 4.5, appended: '<|observation|>\n<tool_response>\n4\n</tool_response><|assistant|>'
#   Gemma 4, appended: '\n<|turn>model\n<|tool_call>call:add{}<tool_call|><|tool_response>response:add{value:...'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 trl==1.16.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import re
from pathlib import Path
from types import SimpleNamespace

import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import GRPOTrainer

CONTROL = re.compile(r"<\|[^<>|\s]{1,30}\|?>|<[a-z_]+\|>|\[gMASK\]|<sop>|<eos>")


def append(template, eos):
    source = (Path(trl.__file__).parent / "chat_templates" / template).read_text()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: number for number, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    controls = sorted({*CONTROL.findall(source), eos})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token=eos, additional_special_tokens=controls
    )
    tokenizer.chat_template = source
    assert trl.chat_template_utils.is_chat_template_prefix_preserving(tokenizer)  # else trl takes another template
    trainer = SimpleNamespace(
        processing_class=tokenizer, _tokenizer=tokenizer, chat_template=None, chat_template_kwargs={}, _is_vlm=False
    )
    return tokenizer.decode(
        GRPOTrainer._get_tool_suffix_ids(trainer, [{"role": "tool", "name": "add", "content": "4"}])
    )


glm, gemma = append("glm4moe.jinja", "<|endoftext|>"), append("gemma4.jinja", "<turn|>")
print("GLM 4.5, appended:", repr(glm))
print("Gemma 4, appended:", repr(gemma))
assert glm.startswith("<|observation|>") and "call:add{}" in gemma, "changed"
PY
