#!/usr/bin/env bash
# transformers 5.23.0, tokenizers 0.23.3: a call's padding and truncation are saved as settings of the tokenizer.
#
# Valid input: one call with padding="max_length" and truncation=True, as most tutorials encode, then save_pretrained.
# One expects: a call to change nothing that is saved, and tokenizer.json to be that of the model.
# What happens: the call switches padding and truncation on in the backend, and save_pretrained writes both into
# tokenizer.json. transformers switches them off again in each of its own calls, so it shows nothing; whoever reads the
# file with tokenizers (a server, a benchmark, a Rust or JavaScript client) pads and cuts every text to that length.
# Seen:
#   before the call: 1 ids, padding None
#   after the call:  16 ids, padding {'Fixed': 16}
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error env/bin/python - <<'PY'
import json
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

backend = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "hello": 2}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def save_and_read(folder):
    tokenizer.save_pretrained(folder)
    ids = Tokenizer.from_file(f"{folder}/tokenizer.json").encode("hello").ids
    padding = json.load(open(f"{folder}/tokenizer.json"))["padding"]
    return len(ids), padding and padding["strategy"]


before = save_and_read("before")
tokenizer("hello", padding="max_length", truncation=True, max_length=16)
after = save_and_read("after")
print("before the call:", before[0], "ids, padding", before[1])
print("after the call: ", after[0], "ids, padding", after[1])
assert (before, after) == ((1, None), (16, {"Fixed": 16})), "changed"
PY
