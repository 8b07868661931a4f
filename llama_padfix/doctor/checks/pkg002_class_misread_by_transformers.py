"""PKG002: a tokenizer class that the installed transformers misreads.

Many Llama 3 derivatives name `"tokenizer_class": "LlamaTokenizerFast"`. transformers 5.0 to 5.21 then rebuild the
splitting of Llama 2: "Hello world" becomes [128000, 39, 96392] instead of [128000, 9906, 1917], and nothing is
raised. 4.x, 5.22 and 5.23 are right. It is an error where such a version is installed, else a note.
"""

from llama_padfix.doctor.check_helpers import version_key, version_of
from llama_padfix.doctor.findings import Change, Check, Facts, Findings

_CLASSES = ("LlamaTokenizerFast", "LlamaTokenizer")


def _find(facts: Facts) -> Findings:
    folder, version = facts.folder, version_of(facts, "transformers")
    named = folder.tokenizer_config.get("tokenizer_class") if folder is not None and folder.byte_level else None
    if named in _CLASSES and version:
        broken = (5, 0) <= version_key(version) < (5, 22)
        target = "folder.tokenizer_config.tokenizer_class"
        why = "every version reads tokenizer.json as it is with this class"
        yield CHECK.found(
            f"tokenizer_config.json names {named} beside a byte-level tokenizer.json, which transformers 5.0 to 5.21 "
            f"split in the wrong way; {version} is installed, which "
            f"{'is one of them' if broken else 'reads it right'}.",
            (Change(target, named, "PreTrainedTokenizerFast", why, "unsafe"),),
            "error" if broken else "note",
        )


CHECK = Check(
    code="PKG002",
    name="class-misread-by-transformers",
    severity="error",
    needs=("folder", "environment"),
    traps=(27,),
    doc=__doc__,
    bad='"tokenizer_class": "LlamaTokenizerFast"  # and transformers 5.12',
    good='"tokenizer_class": "PreTrainedTokenizerFast"  # or transformers>=5.22',
    find=_find,
)
