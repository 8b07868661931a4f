#!/usr/bin/env bash
# datasets 5.2.0, torch 2.13.0: a DataLoader reads a dataset in every format but Arrow's.
#
# Valid input: a small Dataset in one of its formats, in torch's DataLoader with a collate function that takes any rows.
# One expects: batches in each format, as dataset[0] and dataset[0:2] give rows and tables in each.
# What happens: the loader asks for a batch through Dataset.__getitems__, which takes the columns of a pyarrow.Table for
# those of a dict, and raises a TypeError that names neither the loader nor the format. polars was not tried.
# Seen:
#   None: list
#   numpy: list
#   torch: list
#   pandas: list
#   arrow: TypeError: Index must either be string or integer
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 datasets==5.2.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - <<'PY'
from datasets import Dataset
from torch.utils.data import DataLoader

rows = Dataset.from_list([{"input_ids": [1, 2]}, {"input_ids": [3]}])
seen = {}
for name in (None, "numpy", "torch", "pandas", "arrow"):
    try:
        [batch] = DataLoader(rows.with_format(name), batch_size=2, collate_fn=lambda batch: batch)
        seen[name] = type(batch).__name__
    except TypeError as error:
        seen[name] = f"TypeError: {error}"
    print(f"{name}: {seen[name]}")
assert seen["arrow"] == "TypeError: Index must either be string or integer", "changed"
assert {seen[name] for name in (None, "numpy", "torch", "pandas")} == {"list"}, "changed"
PY
