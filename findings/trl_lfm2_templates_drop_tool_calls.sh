#!/usr/bin/env bash
# trl 1.16.0, transformers 5.23.0: LFM2's templates render a tool call as an empty turn.
#
# Valid input: a chat in which the assistant calls a tool, the tool answers, and the assistant replies; and its tool.
# One expects: the call to stand in the assistant's turn, or an error, since the tool's schema and answer are rendered.
# What happens: lfm2.jinja and lfm2_training.jinja write the schema and the answer, and an empty turn in place of the
# call: with content "" nothing, with content None the word null. Training on it teaches to answer a tool list with an
# empty message. The newer lfm2_v2.jinja writes the call.
# Seen:
#   lfm2.jinja           schema True, answer True, call False, the turn: '<|im_start|>assistant\n<|im_end|>'
#   lfm2_training.jinja  schema True, answer True, call False, the turn: '<|im_start|>assistant\n<|im_end|>'
#   lfm2_v2.jinja        schema True, answer True, call True
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
env/bin/pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error env/bin/python - <<'PY'
from importlib.metadata import distribution
from pathlib import Path
from transformers.utils.chat_template_utils import render_jinja_template

call = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Bern"}}}
tool = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": {"type": "object"}}}
chat = [
    {"role": "user", "content": "And in Bern?"},
    {"role": "assistant", "content": "", "tool_calls": [call]},
    {"role": "tool", "content": "11 degrees"},
    {"role": "assistant", "content": "It has 11 degrees."},
]
seen = []
for name in ("lfm2.jinja", "lfm2_training.jinja", "lfm2_v2.jinja"):
    source = Path(distribution("trl").locate_file(f"trl/chat_templates/{name}")).read_text(encoding="utf-8")
    [text], *_ = render_jinja_template([chat], tools=[tool], chat_template=source, bos_token="<s>")
    found = ("description" in text, "11 degrees<" in text, "Bern" in text.split("And in Bern?")[1])
    turn = text.split("And in Bern?<|im_end|>\n")[1].split("\n<|im_start|>")[0]
    print(f"{name:20} schema {found[0]}, answer {found[1]}, call {found[2]}", "" if found[2] else f"the turn: {turn!r}")
    seen.append(found)
    if not found[2]:
        chat[1]["content"] = None
        [text], *_ = render_jinja_template([chat], tools=[tool], chat_template=source, bos_token="<s>")
        assert "<|im_start|>assistant\nnull<|im_end|>" in text, "changed"
        chat[1]["content"] = ""
assert seen == [(True, True, False), (True, True, False), (True, True, True)], "changed"
PY
