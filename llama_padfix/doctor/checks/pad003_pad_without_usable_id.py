"""PAD003: the pad token has no usable id.

`tokenizer.pad_token = "<|finetune_right_pad_id|>"` raises nothing where the vocabulary lacks that token (Llama 3):
`pad_token_id` stays None. A token that was added without resizing has an id beyond the embedding: IndexError.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings
from llama_padfix.doctor.token_policy import change_pad_token, find_pad_fault


def _find(facts: Facts) -> Findings:
    fault = find_pad_fault(facts)
    if fault is not None and fault.kind == "no id":
        yield CHECK.found(f"The pad token {fault.message}.", change_pad_token(facts))


CHECK = Check(
    code="PAD003",
    name="pad-token-without-usable-id",
    severity="error",
    needs=("tokenizer",),
    traps=(13, 32),
    doc=__doc__,
    bad='tokenizer.pad_token = "<|finetune_right_pad_id|>"  # not in this vocabulary: pad_token_id is None',
    good="prepare(tokenizer, model)  # looks the token up and checks its id against the embedding",
    find=_find,
)
