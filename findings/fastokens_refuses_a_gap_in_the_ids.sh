#!/usr/bin/env bash
# fastokens 0.3.5 against tokenizers 0.23.3: a BPE model with an unused id is refused as one of another type.
#
# Valid input: a tokenizer.json of a byte-level BPE model in which no token has the id 256, as where unused tokens were
# cut out and the others kept their rows of the model. tokenizers loads it, and encodes and decodes with it.
# One expects: fastokens, which reads tokenizer.json of BPE models, to load it, too, or to say that an id is missing.
# What happens: it is refused with an error about the model's type, which is BPE in the file.
# Seen:
#   no gap: tokenizers [258, 78], fastokens [258, 78]
#   a gap:  tokenizers [259, 78], fastokens model error: unsupported model type: Other
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check fastokens==0.3.5 tokenizers==0.23.3
HF_HUB_OFFLINE=1 env/bin/python - <<'PY'
import fastokens
from tokenizers import Tokenizer, models, pre_tokenizers

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
seen = []
for title, start in (("no gap:", 256), ("a gap: ", 257)):
    vocabulary = {letter: number for number, letter in enumerate(LETTERS)}
    vocabulary |= {"he": start, "ll": start + 1, "hell": start + 2}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("h", "e"), ("l", "l"), ("he", "ll")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save("tokenizer.json")
    by_tokenizers = Tokenizer.from_file("tokenizer.json").encode("hello").ids
    try:
        by_fastokens = list(fastokens.Tokenizer.from_file("tokenizer.json").encode("hello").ids)
    except ValueError as error:
        by_fastokens = str(error)
    print(f"{title} tokenizers {by_tokenizers}, fastokens {by_fastokens}")
    seen.append((by_tokenizers, by_fastokens))
assert seen == [([258, 78], [258, 78]), ([259, 78], "model error: unsupported model type: Other")], "changed"
PY
