#!/usr/bin/env bash
# @huggingface/jinja 0.5.11 against jinja2 3.1.6: an empty text equals false.
#
# Valid input: a chat with an empty system message, under the lines with which the templates of Llama 2 and of Command R
# look for one: `{% set system_message = false %}` where there is none, and `{% if system_message != false %}`.
# One expects: the text of jinja2, whose comparison is Python's: an empty text is not false, so the block is written.
# What happens: the comparison is JavaScript's `!=`, to which "" and false are equal: no system block. A model that was
# trained with an empty one gets another prompt.
# Seen:
#   jinja2: <SYS></SYS>Hi
#   node:   Hi
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
npm init --yes >/dev/null; npm install --silent --no-fund --no-audit @huggingface/jinja@0.5.11
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check jinja2==3.1.6
cat > chat.jinja <<'JINJA'
{% if messages[0].role == 'system' %}{% set system_message = messages[0].content %}{% else %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<SYS>' + system_message + '</SYS>' }}{% endif %}{{ messages[-1].content }}
JINJA
cat > render.mjs <<'JS'
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
const messages = [{ role: "system", content: "" }, { role: "user", content: "Hi" }];
process.stdout.write(new Template(readFileSync("chat.jinja", "utf8").trim()).render({ messages }));
JS
env/bin/python - <<'PY'
import subprocess

import jinja2

messages = [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}]
python = jinja2.Template(open("chat.jinja").read().strip()).render(messages=messages)
node = subprocess.run(["node", "render.mjs"], capture_output=True, text=True, check=True).stdout
print("jinja2:", python)
print("node:  ", node)
assert (python, node) == ("<SYS></SYS>Hi", "Hi"), "changed"
PY
