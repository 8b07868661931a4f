#!/usr/bin/env bash
# litellm 1.110.2, with templates of trl 1.16.0 and transformers 5.23.0: what a template refuses is sent to the model.
#
# Valid input: a chat with a system message, or with two user messages one behind the other, and the chat templates of
# Gemma 2, Gemma 3 and GLM 4.5, as they are in trl, for a fine-tuned model behind litellm's text completion.
# One expects: the text of transformers, or its error; litellm even has code that repairs such a chat upon that error.
# What happens: raise_exception gives litellm's template an exception as a value, which is printed: the prompt tells the
# model "Error message - System role not supported", and the repair never runs. litellm also renders without trim_blocks
# and lstrip_blocks, so the indents of GLM 4.5's template, which transformers takes off, are in every prompt.
# Seen:
#   Gemma 2, a system message
#     transformers: TemplateError: System role not supported
#     litellm:      'Error message - System role not supportedError message - Conversation roles must alternate ...'
#   Gemma 3, two user messages
#     transformers: TemplateError: Conversation roles must alternate user/assistant/user/assistant/...
#     litellm:      '<start_of_turn>user\nHi<end_of_turn>\nError message - Conversation roles must alternate ...'
#   GLM 4.5, a system message
#     transformers: '[gMASK]<sop><|system|>\nBe brief.<|user|>\nHi<|assistant|>'
#     litellm:      '[gMASK]<sop>\n        \n<|system|>\nBe brief.<|user|>\nHi<|assistant|>'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check litellm==1.110.2 transformers==5.23.0 jinja2==3.1.6
env/bin/pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0
LITELLM_LOCAL_MODEL_COST_MAP=True HF_HUB_OFFLINE=1 HF_HOME="$work/home" TRANSFORMERS_VERBOSITY=error \
    env/bin/python -W ignore - <<'PY'
from importlib.metadata import distribution
from pathlib import Path

from litellm.litellm_core_utils.prompt_templates.factory import hf_chat_template
from transformers.utils.chat_template_utils import render_jinja_template

folder = Path(distribution("trl").locate_file("trl/chat_templates"))
system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}


def render_both(name, file, chat):
    source = (folder / file).read_text(encoding="utf-8")
    try:
        [hub], *_ = render_jinja_template([chat], chat_template=source, add_generation_prompt=True, bos_token="")
    except Exception as error:
        hub = error
    served = hf_chat_template(model="fine-tuned", messages=chat, chat_template=source)
    print(name)
    print("  transformers:", repr(hub) if isinstance(hub, str) else f"{type(hub).__name__}: {hub}")
    print("  litellm:     ", repr(served))
    return hub, served


hub, served = render_both("Gemma 2, a system message", "gemma.jinja", [system, user])
assert str(hub) == "System role not supported" and not isinstance(hub, str), "changed"
assert served.startswith("Error message - System role not supportedError message - Conversation roles"), "changed"
hub, served = render_both("Gemma 3, two user messages", "gemma3.jinja", [user, user])
assert str(hub).startswith("Conversation roles must alternate") and not isinstance(hub, str), "changed"
assert "Hi<end_of_turn>\nError message - Conversation roles must alternate" in served, "changed"
hub, served = render_both("GLM 4.5, a system message", "glm4moe.jinja", [system, user])
assert hub == "[gMASK]<sop><|system|>\nBe brief.<|user|>\nHi<|assistant|>", "changed"
assert "".join(served.split()) == "".join(hub.split()) and "<sop>\n        \n<|system|>" in served, "changed"
PY
