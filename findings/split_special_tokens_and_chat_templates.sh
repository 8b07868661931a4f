#!/usr/bin/env bash
# transformers 5.23.0: split_special_tokens and chat templates.
#
# Valid input: a tokenizer with split_special_tokens=True, the documented way to keep users from typing control tokens, and
# a chat template.
# One expects: apply_chat_template to encode the template's own control tokens as those tokens; what the setting is for is
# text that users write.
# What happens: the whole rendered text is encoded with the setting, so each control token of the template becomes the
# letters that spell it, and the prompt holds not one control token. No warning is given.
# Seen:
#   split_special_tokens=False: 3 ids, 1 of them <|end|>
#   split_special_tokens=True: 9 ids, 0 of them <|end|>
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6
HF_HUB_OFFLINE=1 env/bin/python - <<'PY'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

letters = {char: at for at, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
backend = Tokenizer(models.BPE(letters, []))
backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
chat = [{"role": "user", "content": "Hi"}]
counts = {}
for split in (False, True):
    tokenizer.split_special_tokens = split
    ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    counts[split] = (len(ids), ids.count(tokenizer.eos_token_id))
    print(f"split_special_tokens={split}: {len(ids)} ids, {ids.count(tokenizer.eos_token_id)} of them <|end|>")
assert counts == {False: (3, 1), True: (9, 0)}, "changed"
PY
