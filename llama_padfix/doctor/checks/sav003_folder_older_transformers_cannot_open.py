"""SAV003: a tokenizer that transformers 4.x cannot open.

transformers 5.x writes `"tokenizer_class": "TokenizersBackend"` and a list of `extra_special_tokens` into
tokenizer_config.json. 4.x raises that the class does not exist, or `'list' object has no attribute 'keys'`. Both read
`PreTrainedTokenizerFast` and `additional_special_tokens`. The change is made on request only.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    config = facts.folder.tokenizer_config if facts.folder is not None else {}
    changes, seen = [], []
    if config.get("tokenizer_class") == "TokenizersBackend":
        seen.append("the class TokenizersBackend")
        why = "transformers 4.x and 5.x both know this class, and both give it the ids of tokenizer.json"
        target = "folder.tokenizer_config.tokenizer_class"
        changes.append(Change(target, "TokenizersBackend", "PreTrainedTokenizerFast", why, "unsafe"))
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list):
        seen.append("extra_special_tokens as a list")
        why = "4.x reads such a list under this name only, and 5.x under both"
        old, new = "folder.tokenizer_config.extra_special_tokens", "folder.tokenizer_config.additional_special_tokens"
        changes.append(Change(old, tuple(extra), None, why, "unsafe"))
        changes.append(Change(new, None, tuple(extra), why, "unsafe"))
    if seen:
        message = f"tokenizer_config.json holds {' and '.join(seen)}: transformers 4.x does not open this tokenizer."
        yield CHECK.found(message, tuple(changes))


CHECK = Check(
    code="SAV003",
    name="tokenizer-closed-to-older-transformers",
    severity="note",
    needs=("folder",),
    traps=(34,),
    doc=__doc__,
    bad='"tokenizer_class": "TokenizersBackend"',
    good="llama-padfix doctor FOLDER --fix FIXED --unsafe  # PreTrainedTokenizerFast",
    find=_find,
)
