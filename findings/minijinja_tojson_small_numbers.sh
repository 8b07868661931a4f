#!/usr/bin/env bash
# minijinja 3.1.0 against transformers 5.23.0 and trl 1.16.0: small numbers of a tool have another text.
#
# Valid input: a tool whose argument has a least value such as 0.00001, and Qwen 3's chat template, which writes tools
# and calls with `tojson`.
# One expects: the text that transformers renders, since the same template serves both.
# What happens: transformers writes these numbers as json.dumps does, minijinja with other exponents, or none: the prompt
# of a server that renders with it differs from the text of the training. 0.0001 and 1e-10 are the same in both.
# Seen:
#   transformers: 0.0001   minijinja: 0.0001   and the rest is the same: True
#   transformers: 1e-05    minijinja: 0.00001  and the rest is the same: True
#   transformers: 1e-06    minijinja: 1e-6     and the rest is the same: True
#   transformers: 1e-10    minijinja: 1e-10    and the rest is the same: True
#   transformers: 1e+16    minijinja: 1e+16    and the rest is the same: True
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check minijinja==3.1.0 transformers==5.23.0 jinja2==3.1.6
env/bin/pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error env/bin/python - <<'PY'
from importlib.metadata import distribution
from pathlib import Path

import minijinja
from transformers.utils.chat_template_utils import render_jinja_template

source = Path(distribution("trl").locate_file("trl/chat_templates/qwen3.jinja")).read_text(encoding="utf-8")
chat = [{"role": "user", "content": "Train."}]
tools = [{"name": "train", "parameters": {"rate": {"type": "number", "minimum": None}}}]
environment = minijinja.Environment()
environment.trim_blocks = environment.lstrip_blocks = True
seen = []
for number in (0.0001, 0.00001, 0.000001, 1e-10, 1e16):
    tools[0]["parameters"]["rate"]["minimum"] = number
    [python], *_ = render_jinja_template([chat], tools=tools, chat_template=source, add_generation_prompt=True)
    rust = environment.render_str(source, messages=chat, tools=tools, add_generation_prompt=True)
    texts = [text.split('"minimum": ')[1].split("}")[0] for text in (python, rust)]
    same = python.replace(f'"minimum": {texts[0]}', "") == rust.replace(f'"minimum": {texts[1]}', "")
    print("transformers:", texts[0].ljust(8), "minijinja:", texts[1].ljust(8), "and the rest is the same:", same)
    seen.append((*texts, same))
assert [python for python, _, _ in seen] == ["0.0001", "1e-05", "1e-06", "1e-10", "1e+16"], "changed"
assert [rust for _, rust, _ in seen] == ["0.0001", "0.00001", "1e-6", "1e-10", "1e+16"], "changed"
assert all(same for _, _, same in seen), "changed"
PY
