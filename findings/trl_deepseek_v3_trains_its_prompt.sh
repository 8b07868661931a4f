#!/usr/bin/env bash
# trl 1.16.0, transformers 5.23.0: what DeepSeek V3's training template trains is not what follows its prompt.
#
# Valid input: a chat with a thought, and the same chat asked for its answer (add_generation_prompt=True).
# One expects: the {% generation %} block of a training template to hold what the model writes behind the generation
# prompt, so that a row trains the continuation of the prompt.
# What happens: the block begins with <｜Assistant｜>, which the prompt ends with at inference, and behind a tool's answer
# with <｜tool▁outputs▁end｜>. The prompt also ends in <think>, and the thought of a row is cut away, so that no row ever
# shows what follows it.
# Seen:
#   prompt ends in:  '<｜User｜>2 + 2?<｜Assistant｜><think>\n'
#   trained:         '<｜Assistant｜>4<｜end▁of▁sentence｜>'
#   behind a tool:   '<｜tool▁outputs▁end｜>It is 4.<｜end▁of▁sentence｜>'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
env/bin/pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error env/bin/python - <<'PY'
from importlib.metadata import distribution
from pathlib import Path
from transformers.utils.chat_template_utils import render_jinja_template

path = distribution("trl").locate_file("trl/chat_templates/deepseekv3_training.jinja")
given = {"chat_template": Path(path).read_text(encoding="utf-8"), "bos_token": "<s>"}
ask = {"role": "user", "content": "2 + 2?"}
call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}


def trained(chat):
    [text], [spans] = render_jinja_template([chat], return_assistant_tokens_mask=True, **given)
    return [text[start:end] for start, end in spans]


[prompt], *_ = render_jinja_template([[ask]], add_generation_prompt=True, **given)
thought = trained([ask, {"role": "assistant", "content": "<think>Two and two.</think>4"}])
tools = trained([ask, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "4"},
                 {"role": "assistant", "content": "It is 4."}])
print("prompt ends in: ", repr(prompt[len("<s>"):]))
print("trained:        ", repr(thought[0]))
print("behind a tool:  ", repr(tools[-1]))
assert prompt.endswith("<｜Assistant｜><think>\n"), "changed"
assert thought == ["<｜Assistant｜>4<｜end▁of▁sentence｜>"], "changed"
assert tools[-1] == "<｜tool▁outputs▁end｜>It is 4.<｜end▁of▁sentence｜>", "changed"
PY
