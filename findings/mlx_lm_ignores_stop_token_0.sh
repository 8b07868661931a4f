#!/usr/bin/env bash
# mlx-lm 0.32.2, mlx 0.32.4: a stop token of generation_config.json counts unless its id is 0.
#
# Valid input: a model folder whose config.json names stop token 2 and whose generation_config.json names another one, as
# where a model is to stop at <|endoftext|>, which has id 0 in the vocabularies of SmolLM2 and GPT-NeoX.
# One expects: the stop token of generation_config.json, as for any other id, and as in transformers.
# What happens: mlx-lm takes 0 for "none given", and goes on to stop at 2. In a list, [0], it is read.
# Seen:
#   generation_config.json 5: mlx-lm stops at 5, transformers at 5
#   generation_config.json 0: mlx-lm stops at 2, transformers at 0
#   generation_config.json [0]: mlx-lm stops at [0], transformers at [0]
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check mlx-lm==0.32.2 "mlx[cpu]==0.32.4" transformers==5.23.0
HF_HUB_OFFLINE=1 HF_HOME="$work/home" env/bin/python -W ignore - 2>log <<'PY' || { tail -5 log; exit 1; }
import json
from pathlib import Path

from mlx_lm.utils import load_config
from transformers import GenerationConfig

folder = Path("model")
folder.mkdir()
(folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2}))
seen = []
for given in (5, 0, [0]):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
    mlx = load_config(folder)["eos_token_id"]
    transformers = GenerationConfig.from_pretrained(folder).eos_token_id
    print(f"generation_config.json {given}: mlx-lm stops at {mlx}, transformers at {transformers}")
    seen.append((mlx, transformers))
assert seen == [(5, 5), (2, 0), ([0], [0])], "changed"
PY
