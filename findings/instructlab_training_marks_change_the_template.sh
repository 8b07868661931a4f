#!/usr/bin/env bash
# instructlab-training 0.16.2, trl 1.16.0's chat templates, transformers 5.23.0: marks around an answer change what the
# template writes.
#
# Valid input: one question and one answer, through `unmask_messages` with the chat templates of Llama 3.1 and Qwen 3.
# One expects: the ids of apply_chat_template, with labels for the answer.
# What happens: `unmask_messages` puts control tokens at both ends of the content, renders, and takes them out of the
# ids. The template sees the marks. Llama 3.1 trims an answer's white space, which the marks protect: the trained ids are
# not those that any server renders. Qwen 3 splits a content at `</think>` and drops what is in front, the opening mark
# included: a thought in the content ends in an error that calls itself impossible.
# Seen:
#   Llama 3.1, 'Yes':    same ids
#   Llama 3.1, ' Yes\n': apply_chat_template writes 'Yes<|eot_id|>', the trained ids ' Yes\n<|eot_id|>'
#   Qwen 3, 'Yes':       same ids
#   Qwen 3, '<think>\nhm\n</think>\n\nYes': ValueError: encountered an "<|UNMASK_END|>" token while not unmasking. This ...
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 trl==1.16.0 jinja2==3.1.6 \
    peft==0.21.2 regex rich aiofiles numba py-cpuinfo
env/bin/pip install --quiet --disable-pip-version-check --no-deps instructlab-training==0.16.2
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
from pathlib import Path

import trl
from instructlab.training import data_process
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MARKS = [
    data_process.UNMASK_BEGIN_TOKEN,
    data_process.UNMASK_END_TOKEN,
    data_process.UNMASK_REASONING_BEGIN_TOKEN,
    data_process.UNMASK_REASONING_END_TOKEN,
]
CONTROLS = ["<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>", "<|im_start|>"]


def process(template, stop, answer):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token=stop)
    tokenizer.add_tokens([*CONTROLS, *MARKS], special_tokens=True)
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / template).read_text(encoding="utf-8")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
    plain = tokenizer.apply_chat_template(messages, return_dict=False)
    try:
        ids = data_process.unmask_messages(messages, tokenizer, ["assistant"])["input_ids"]
    except ValueError as error:
        return f"ValueError: {error}"
    written, trained = ("..." + tokenizer.decode(each)[-16:] for each in (plain, ids))
    return "same ids" if ids == plain else f"apply_chat_template writes {written!r}, the trained ids {trained!r}"


THOUGHT = "<think>\nhm\n</think>\n\nYes"
llama, qwen = ("llama3_1.jinja", "<|eot_id|>"), ("qwen3.jinja", "<|im_end|>")
seen = {name: process(*family, answer) for name, family, answer in (
    ("Llama 3.1, 'Yes'", llama, "Yes"),
    ("Llama 3.1, ' Yes\\n'", llama, " Yes\n"),
    ("Qwen 3, 'Yes'", qwen, "Yes"),
    ("Qwen 3, a thought in the content", qwen, THOUGHT),
)}
for name, what in seen.items():
    print(f"{name}: {what}")
first, second, third, fourth = seen.values()
assert first == third == "same ids", "changed"
assert "\\nYes<|eot_id|>', the" in second and second.endswith(" Yes\\n<|eot_id|>'"), "changed"
assert fourth.startswith('ValueError: encountered an "<|UNMASK_END|>" token while not unmasking'), "changed"
PY
