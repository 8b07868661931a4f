#!/usr/bin/env bash
# datasets 5.2.0, pyarrow 26.0.1: in NumPy format a batch has other types and other numbers than its rows.
#
# Valid input: a dataset with an int32 and a float64 column, in NumPy format; a row of it, and a batch with that row.
# One expects: the types of the columns in both, or at least the same numbers.
# What happens: a row keeps int32 and float64. A batch, a column and a map over batches have int64 and float32, and
# float32 cannot hold 16777217: the number is another one. map with batched=True stores such a copy as float32, where
# map by row stores float64. An iterable dataset gives rows of int32 and float64, and of int64 and float32 once mapped.
# Seen:
#   row:             int32 float64 16777217.0
#   batch:           int64 float32 16777216.0
#   iterated:        int32 float64 16777217.0
#   iterated, mapped: int64 float32 16777216.0
#   copied by row:   float64 16777217.0
#   copied by batch: float32 16777216.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python - <<'PY'
from datasets import Dataset, Features, Value, disable_progress_bars

disable_progress_bars()
features = Features({"id": Value("int32"), "score": Value("float64")})
plain = Dataset.from_dict({"id": [7], "score": [16777217.0]}, features=features)
dataset = plain.with_format("numpy")
iterable = plain.to_iterable_dataset().with_format("numpy")
batch = dataset[:1]
seen = {}
for title, row in (
    ("row", dataset[0]),
    ("batch", {name: column[0] for name, column in batch.items()}),
    ("iterated", next(iter(iterable))),
    ("iterated, mapped", next(iter(iterable.map(lambda row: row)))),
):
    seen[title] = (str(row["id"].dtype), str(row["score"].dtype), float(row["score"]))
for title, batched in (("copied by row", False), ("copied by batch", True)):
    copied = dataset.map(lambda rows: {"copy": rows["score"]}, batched=batched).with_format(None)
    seen[title] = (copied.features["copy"].dtype, copied[0]["copy"])
for title, values in seen.items():
    print(f"{title}:".ljust(17), *values)
kept, other = ("int32", "float64", 16777217.0), ("int64", "float32", 16777216.0)
assert list(seen.values()) == [kept, other, kept, other, kept[1:], other[1:]], "changed"
PY
