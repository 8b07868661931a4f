#!/usr/bin/env bash
# @huggingface/jinja 0.5.11 against transformers 5.23.0: the same chat template, the same tool call, other text.
#
# Valid input: a message with one tool call, rendered by `{{ call.arguments | tojson }}`, which is how most templates with
# tools write calls.
# One expects: the text that transformers renders, since the same chat_template.jinja serves both.
# What happens: 1.0 is written as 1, keys that look like numbers move to the front, and integers above 2^53 change their
# value. A model that was trained on the Python text is prompted with another one for its own earlier calls.
# Seen:
#   transformers: {"name": "pay", "amount": 1.0, "10": "ten", "id": 9007199254740993}
#   node:         {"10": "ten", "name": "pay", "amount": 1, "id": 9007199254740992}
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
npm init --yes >/dev/null; npm install --silent --no-fund --no-audit @huggingface/jinja@0.5.11
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
cat > call.json <<'JSON'
{"name": "pay", "amount": 1.0, "10": "ten", "id": 9007199254740993}
JSON
cat > render.mjs <<'JS'
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
const call = JSON.parse(readFileSync("call.json", "utf8"));
process.stdout.write(new Template("{{ messages[0].call | tojson }}").render({ messages: [{ call }] }));
JS
HF_HUB_OFFLINE=1 env/bin/python - <<'PY'
import json, subprocess
from transformers.utils.chat_template_utils import render_jinja_template

call = json.load(open("call.json"))
rendered, _ = render_jinja_template([[{"role": "assistant", "call": call}]], chat_template="{{ messages[0].call | tojson }}")
python = rendered[0]
node = subprocess.run(["node", "render.mjs"], capture_output=True, text=True, check=True).stdout
print("transformers:", python)
print("node:        ", node)
assert python == '{"name": "pay", "amount": 1.0, "10": "ten", "id": 9007199254740993}', "changed"
assert node == '{"10": "ten", "name": "pay", "amount": 1, "id": 9007199254740992}', "changed"
PY
