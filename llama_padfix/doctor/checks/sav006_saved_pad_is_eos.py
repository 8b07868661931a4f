"""SAV006: pad = EOS was written into the saved tokenizer.

A trainer that finds no pad token sets pad = EOS in its tokenizer and saves it, as TRL does. The next run then starts
with that setting, where a collator masks every pad id and the model never learns to stop. The fix sets a pad token
that no row holds as itself.
"""

from llama_padfix.doctor.check_helpers import token_text
from llama_padfix.doctor.findings import Check, Facts, Findings
from llama_padfix.doctor.token_policy import change_pad_token, find_pad_fault


def _find(facts: Facts) -> Findings:
    config = facts.folder.tokenizer_config if facts.folder is not None else {}
    pad, fault = token_text(config.get("pad_token")), find_pad_fault(facts)
    hides_ends = not facts.vocab_size or (fault is not None and fault.kind == "learned")
    if pad is not None and pad == token_text(config.get("eos_token")) and hides_ends:
        yield CHECK.found(
            f"tokenizer_config.json says that {pad} is both EOS and padding: the next run that trains from this "
            "folder hides every end from its loss.",
            change_pad_token(facts) if facts.vocab_size else (),
        )


CHECK = Check(
    code="SAV006",
    name="saved-pad-is-eos",
    severity="warning",
    needs=("folder",),
    traps=(2, 26),
    doc=__doc__,
    bad='tokenizer_config.json: "eos_token": "<|eot_id|>", "pad_token": "<|eot_id|>"',
    good="prepare(tokenizer, model)  # before the trainer sees the tokenizer",
    find=_find,
)
