#!/usr/bin/env bash
# datasets 5.2.0, pyarrow 26.0.1: one column, two readings.
#
# Valid input: a JSON-lines file of chats, as fine-tuning data comes. In one row a message's content is a text, in another
# a list of parts, so load_dataset gives the column the type Json.
# One expects: the Arrow view of a row (with_format("arrow"), dataset.data) to hold the text that the row holds.
# What happens: the row gives hello, the Arrow column gives "hello" with the quotes of its JSON encoding. A program that
# reads the same dataset through Arrow for speed trains on the quotes.
# Seen:
#   by row:     hello
#   by Arrow:   "hello"
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python - <<'PY'
import json
from datasets import load_dataset

rows = [
    {"messages": [{"role": "user", "content": "hello"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
]
with open("chats.jsonl", "w") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
dataset = load_dataset("json", data_files="chats.jsonl", split="train")
by_row = dataset[0]["messages"][0]["content"]
by_arrow = dataset.with_format("arrow")[0:1]["messages"].to_pylist()[0][0]["content"]
print("features:  ", dataset.features)
print("by row:    ", by_row)
print("by Arrow:  ", by_arrow)
assert (by_row, by_arrow) == ("hello", '"hello"'), "changed"
PY
