#!/usr/bin/env bash
# trl 1.16.0, transformers 5.23.0: Gemma 4's templates open no turn for a second assistant message.
#
# Valid input: a question and two assistant messages, as logs hold them where an answer was continued or a tool call and
# its comment were stored apart.
# One expects: each assistant message in a turn of its own, or both in one turn, or an error (as other templates do).
# What happens: gemma4.jinja, gemma4_v3.jinja and gemma4_v4.jinja open the first and close both: the second stands behind
# <turn|> with no <|turn>model in front of it. A model never generates there, and whoever looks for turns by their header
# finds one answer of two. gemma4_v2.jinja writes two turns, gemma4_v5.jinja one.
# Seen: how often the header opens the two answers, and how often they are closed
#   gemma4.jinja     opened 1, closed 2
#   gemma4_v2.jinja  opened 2, closed 2
#   gemma4_v3.jinja  opened 1, closed 2
#   gemma4_v4.jinja  opened 1, closed 2
#   gemma4_v5.jinja  opened 1, closed 1
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
env/bin/pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error env/bin/python - <<'PY'
from importlib.metadata import distribution
from pathlib import Path
from transformers.utils.chat_template_utils import render_jinja_template

chat = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "Two."}]
seen = {}
for name in ("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"):
    source = Path(distribution("trl").locate_file(f"trl/chat_templates/{name}.jinja")).read_text(encoding="utf-8")
    [text], *_ = render_jinja_template([chat], chat_template=source, bos_token="<bos>")
    answers = text.split("Go on.<turn|>\n")[1]
    seen[name] = (answers.count("<|turn>model"), answers.count("<turn|>"))
    print(f"{name + '.jinja':16} opened {seen[name][0]}, closed {seen[name][1]}   {answers!r}")
assert list(seen.values()) == [(1, 2), (2, 2), (1, 2), (1, 2), (1, 1)], "changed"
PY
