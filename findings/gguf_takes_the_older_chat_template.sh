#!/usr/bin/env bash
# gguf 0.19.0: which chat template goes into the GGUF.
#
# Valid input: a model folder with a chat template in tokenizer_config.json, as older versions of transformers wrote it,
# and a newer one in chat_template.jinja, as transformers 5 writes it. transformers reads chat_template.jinja
# when both are there.
# One expects: the converter to take the template that transformers renders with.
# What happens: gguf.SpecialVocab takes the one in tokenizer_config.json, so the converted model is prompted with the older text.
# Seen:
#   transformers: NEW
#   gguf:         OLD
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check gguf==0.19.0 transformers==5.23.0 jinja2==3.1.6
mkdir model
HF_HUB_OFFLINE=1 env/bin/python - <<'PY'
import json
from pathlib import Path
import gguf
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "hi": 1}, "<unk>")), unk_token="<unk>"
).save_pretrained("model")
path = Path("model/tokenizer_config.json")
path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "OLD"}))
Path("model/chat_template.jinja").write_text("NEW")
by_transformers = AutoTokenizer.from_pretrained("model").chat_template
by_gguf = gguf.SpecialVocab("model", load_merges=False).chat_template
print("transformers:", by_transformers)
print("gguf:        ", by_gguf)
assert (by_transformers, by_gguf) == ("NEW", "OLD"), "changed"
PY
