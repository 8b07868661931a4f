#!/usr/bin/env bash
# trl 1.16.0, transformers 5.23.0: ShareGPT rows keep the roles human and gpt, and templates write them as they are.
#
# Valid input: a row of the widespread form {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", ...}]},
# which SFTTrainer passes through maybe_convert_to_chatml, and a ChatML template such as Qwen's.
# One expects: the roles user and assistant, which the model knows, or an error.
# What happens: only the keys are renamed. The template opens turns of human and gpt, so a model is trained on headers
# that it never sees when it is asked, and the answer stands behind another header than the generation prompt.
# Seen:
#   roles:   ['human', 'gpt']
#   trained: '<|im_start|>human\nHi<|im_end|>\n<|im_start|>gpt\nYes<|im_end|>\n'
#   asked:   '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 trl==1.16.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import apply_chat_template, maybe_convert_to_chatml

letters = {char: place for place, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
backend = Tokenizer(models.BPE(letters, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
)
tokenizer.chat_template = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}
converted = maybe_convert_to_chatml(row)
roles = [message["role"] for message in converted["messages"]]
trained = apply_chat_template(converted, tokenizer)["text"]
asked = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
print("roles:  ", roles)
print("trained:", repr(trained))
print("asked:  ", repr(asked))
assert roles == ["human", "gpt"], "changed"
assert trained == "<|im_start|>human\nHi<|im_end|>\n<|im_start|>gpt\nYes<|im_end|>\n", "changed"
PY
