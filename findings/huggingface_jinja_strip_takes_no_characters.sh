#!/usr/bin/env bash
# @huggingface/jinja 0.5.11 against transformers 5.23.0 and trl 1.16.0: Qwen 3's template takes the indent off an answer.
#
# Valid input: a thought and an answer that begins with an indented line, such as the next lines of a function, rendered
# by Qwen 3's chat template, which takes line breaks off both with strip('\n') and lstrip('\n').
# One expects: the text that transformers renders, since the same chat_template.jinja serves both.
# What happens: strip, lstrip and rstrip ignore their argument and take all white space. The filter trim with an argument
# is refused.
# Seen:
#   transformers: '<think>\n  a, then b\n</think>\n\n    return a + b'
#   node:         '<think>\na, then b\n</think>\n\nreturn a + b'
#   {{ 'aabaa'.strip('a') }} transformers: b node: aabaa
#   {{ 'aabaa' | trim('a') }} transformers: b node: Unknown StringValue filter: trim
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
npm init --yes >/dev/null; npm install --silent --no-fund --no-audit @huggingface/jinja@0.5.11
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
env/bin/pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
cat > render.mjs <<'JS'
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
const [source, messages] = JSON.parse(readFileSync(0, "utf8"));
try {
  process.stdout.write(new Template(source).render({ messages }));
} catch (error) {
  process.stdout.write(error.message);
}
JS
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error env/bin/python - <<'PY'
import json, subprocess
from importlib.metadata import distribution
from pathlib import Path
from transformers.utils.chat_template_utils import render_jinja_template


def python(source, chat):
    return render_jinja_template([chat], chat_template=source)[0][0]


def node(source, chat):
    given = json.dumps([source, chat])
    return subprocess.run(["node", "render.mjs"], input=given, capture_output=True, text=True, check=True).stdout


qwen3 = Path(distribution("trl").locate_file("trl/chat_templates/qwen3.jinja")).read_text(encoding="utf-8")
answer = "<think>\n  a, then b\n</think>\n\n    return a + b"
chat = [{"role": "user", "content": "Go on: def add(a, b):"}, {"role": "assistant", "content": answer}]
seen = [render(qwen3, chat).split("assistant\n")[1].split("<|im_end|>")[0] for render in (python, node)]
print("transformers:", repr(seen[0]))
print("node:        ", repr(seen[1]))
assert seen == [answer, "<think>\na, then b\n</think>\n\nreturn a + b"], "changed"
for source, by_python, by_node in (
    ("{{ 'aabaa'.strip('a') }}", "b", "aabaa"),
    ("{{ 'aabaa' | trim('a') }}", "b", "Unknown StringValue filter: trim"),
):
    print(source, "transformers:", python(source, chat), "node:", node(source, chat))
    assert (python(source, chat), node(source, chat)) == (by_python, by_node), "changed"
PY
