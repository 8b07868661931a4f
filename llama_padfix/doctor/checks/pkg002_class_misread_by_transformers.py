"""PKG002: a tokenizer class that the installed transformers misreads."""

import re
from collections.abc import Iterator

from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Change, Check, Finding

_CLASSES = ("LlamaTokenizerFast", "LlamaTokenizer")


def _find(facts: Facts) -> Iterator[Finding]:
    folder, environment = facts.folder, facts.environment
    if folder is None or environment is None or not folder.byte_level:
        return
    named = folder.tokenizer_config.get("tokenizer_class")
    version = environment.versions.get("transformers", "")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if named not in _CLASSES or numbers is None:
        return
    broken = int(numbers[1]) == 5 and int(numbers[2]) <= 21
    why = "every version reads tokenizer.json as it is with this class"
    target = "folder.tokenizer_config.tokenizer_class"
    change = Change(target, named, "PreTrainedTokenizerFast", why, "unsafe", CHECK.code)
    message = (
        f"tokenizer_config.json names {named} beside a byte-level tokenizer.json, which transformers 5.0 to 5.21 "
        f"split in the wrong way; {version} is installed, which {'is one of them' if broken else 'reads it right'}."
    )
    yield CHECK.found(message, (change,), severity="error" if broken else "note")


CHECK = Check(
    code="PKG002",
    name="class-misread-by-transformers",
    severity="error",
    needs=("folder", "environment"),
    traps=(27,),
    explanation="""\
Many Llama 3 derivatives say `"tokenizer_class": "LlamaTokenizerFast"`. transformers 5.0 to 5.21 then rebuild the
splitting of Llama 2 on Llama 3's vocabulary: "Hello world" becomes [128000, 39, 96392] instead of
[128000, 9906, 1917], and nothing is raised. 4.x, 5.22 and 5.23 are right. It is an error where such a version is
installed, and a note elsewhere, since whoever loads the folder may have one.
""",
    bad='"tokenizer_class": "LlamaTokenizerFast"  # and transformers 5.12',
    good='"tokenizer_class": "PreTrainedTokenizerFast"  # or transformers>=5.22',
    find=_find,
)
