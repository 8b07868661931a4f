#!/usr/bin/env bash
# tokenizers 0.23.3, transformers 5.23.0: a token added to a vocabulary with a gap gets the id of another token.
#
# Valid input: a vocabulary without the id 2, as where unused tokens were cut out and the others kept their rows of the
# model; a padding token is added to it.
# One expects: an id that no token has (2, or 4 behind the last one), or an error.
# What happens: the new token's id is the number of tokens, 3, which is "no". Both are encoded as 3, and 3 is decoded as
# the padding token: answers lose a word, and training on them that masks the padding token by its id masks "no", too.
# Seen:
#   before: ids [1, 3], decoded 'yes no'
#   after:  ids [1, 3], decoded 'yes <pad>', without special tokens 'yes'; the padding token's id is 3
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error env/bin/python - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

backend = Tokenizer(models.WordLevel({"<unk>": 0, "yes": 1, "no": 3}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
ids = tokenizer("yes no").input_ids
before = tokenizer.decode(ids)
print(f"before: ids {ids}, decoded {before!r}")
assert (ids, before) == ([1, 3], "yes no"), "changed"

tokenizer.add_special_tokens({"pad_token": "<pad>"})
ids = tokenizer("yes no").input_ids
seen = (ids, tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True), tokenizer.pad_token_id)
print(f"after:  ids {ids}, decoded {seen[1]!r}, without special tokens {seen[2]!r}; the padding token's id is {seen[3]}")
assert seen == ([1, 3], "yes <pad>", "yes", 3), "changed"
PY
