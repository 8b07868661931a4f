#!/usr/bin/env bash
# datasets 5.2.0, pyarrow 26.0.1: of rows given as dicts, only the first row's columns are kept.
#
# Valid input: chat rows of which a later one has tools, as rows with and without tool calls come in one list.
# One expects: the columns of all rows, as the same rows give from a JSON-lines file, or an error.
# What happens: from_list, from_generator and pyarrow's Table.from_pylist take the columns of the first row. Those that
# only later rows have are gone without a word: tools here, or a mask, a weight, a label. The keys of a message, one level
# down, are all kept, so nothing hints at it.
# Seen:
#   from_list:      ['messages']
#   from_pylist:    ['messages']
#   from_generator: ['messages']
#   json lines:     ['messages', 'tools']
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
HF_HUB_OFFLINE=1 HF_HOME="$work/home" HF_DATASETS_DISABLE_PROGRESS_BARS=1 env/bin/python - <<'PY'
import json
import pyarrow
from datasets import Dataset, load_dataset

rows = [
    {"messages": [{"role": "user", "content": "hello"}]},
    {"messages": [{"role": "user", "content": "hello", "weight": 1}], "tools": ["weather"]},
]
with open("rows.jsonl", "w") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)


def generate():
    yield from rows


seen = {
    "from_list": sorted(Dataset.from_list(rows).column_names),
    "from_pylist": sorted(pyarrow.Table.from_pylist(rows).column_names),
    "from_generator": sorted(Dataset.from_generator(generate).column_names),
    "json lines": sorted(load_dataset("json", data_files="rows.jsonl", split="train").column_names),
}
for name, columns in seen.items():
    print(f"{name + ':':15} {columns}")
both = ["messages", "tools"]
assert list(seen.values()) == [["messages"]] * 3 + [both], "changed"
PY
