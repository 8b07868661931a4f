#!/usr/bin/env bash
# trl 1.16.0: pairs that are unpaired for KTO come as 1,000 good answers, then 1,000 bad ones.
#
# Valid input: a dataset of 2,000 prompts with a chosen and a rejected answer, through `unpair_preference_dataset`.
# One expects: good and bad answers side by side or in the order of the pairs: KTO weighs each batch's good answers
# against its bad ones, and KTOTrainer draws rows in their order.
# What happens: each block of 1,000 rows that datasets maps at once yields its good answers first. With any usual batch
# size, hundreds of batches in a row hold one kind of answer.
# Seen (share of good answers in each 500 rows):
#   [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 trl==1.16.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import inspect

from datasets import Dataset
from trl import KTOTrainer, unpair_preference_dataset

pairs = Dataset.from_list([{"prompt": f"{number}?", "chosen": "a", "rejected": "b"} for number in range(2000)])
labels = unpair_preference_dataset(pairs)["label"]
seen = [sum(labels[first : first + 500]) / 500 for first in range(0, 4000, 500)]
print(seen)
assert seen == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], "changed"
source = inspect.getsource(inspect.getmodule(KTOTrainer))
assert "SequentialSampler" in source, "changed"
PY
