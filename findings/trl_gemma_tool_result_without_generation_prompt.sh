#!/usr/bin/env bash
# trl 1.16.0, transformers 5.23.0: behind a tool's result two templates prompt for another answer than they train.
#
# Valid input: a question, an assistant message with a tool call (alone, or with a sentence in front of it), and the
# tool's result; with add_generation_prompt=True, and with the answer that follows.
# One expects: the prompt to be the beginning of the whole chat, since the model was trained on the whole.
# What happens: diffusion_gemma.jinja opens a new turn for the answer behind a result, and none in the generation prompt:
# the model is asked to go on behind <tool_response|>, where it never did. Where the call came with a sentence, the
# prompts of diffusion_gemma.jinja and gemma4_v5.jinja close the turn, which the whole chat does not, and open none.
# Seen: what follows the same text in the prompt, and in the whole chat
#   diffusion_gemma.jinja  call alone       ''            '<|turn>model\nIt is 11.<turn|>\n'
#   diffusion_gemma.jinja  with a sentence  '<turn|>\n'   '<|turn>model\nIt is 11.<turn|>\n'
#   gemma4_v5.jinja        call alone       ''            'It is 11.<turn|>\n'
#   gemma4_v5.jinja        with a sentence  '<turn|>\n'   'It is 11.<turn|>\n'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
env/bin/pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error env/bin/python - <<'PY'
from importlib.metadata import distribution
from pathlib import Path
from transformers.utils.chat_template_utils import render_jinja_template

call = {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": {"town": "Bern"}}}
result = {"role": "tool", "tool_call_id": "a1", "name": "weather", "content": "11 degrees"}
seen = []
for name in ("diffusion_gemma", "gemma4_v5"):
    source = Path(distribution("trl").locate_file(f"trl/chat_templates/{name}.jinja")).read_text(encoding="utf-8")
    for title, sentence in (("call alone", ""), ("with a sentence", "I look it up.")):
        ask = {"role": "assistant", "content": sentence, "tool_calls": [call]}
        chat = [{"role": "user", "content": "And in Bern?"}, ask, result]
        whole = [*chat, {"role": "assistant", "content": "It is 11."}]
        [prompt], *_ = render_jinja_template([chat], chat_template=source, bos_token="<bos>", add_generation_prompt=True)
        [text], *_ = render_jinja_template([whole], chat_template=source, bos_token="<bos>")
        shared = len(text) - len(text.split(sentence or "<tool_response|>")[-1])
        assert prompt[:shared] == text[:shared], "changed"
        seen.append((prompt[shared:], text[shared:]))
        print(f"{name + '.jinja':22} {title:16} {prompt[shared:]!r:13} {text[shared:]!r}")
new, same = "<|turn>model\nIt is 11.<turn|>\n", "It is 11.<turn|>\n"
assert seen == [("", new), ("<turn|>\n", new), ("", same), ("<turn|>\n", same)], "changed"
PY
