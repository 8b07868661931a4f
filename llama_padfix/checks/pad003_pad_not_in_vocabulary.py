"""PAD003: the pad token has no usable id."""

from collections.abc import Iterator

from llama_padfix.policy import change_pad_token, explain_bad_pad, learned_stop_ids
from llama_padfix.records import Check, Facts, Finding


def _find(facts: Facts) -> Iterator[Finding]:
    fault = explain_bad_pad(facts)
    if facts.pad_token is not None and fault is not None and facts.pad_token_id not in learned_stop_ids(facts):
        yield CHECK.found(f"{fault[0].upper()}{fault[1:]}.", change_pad_token(facts, CHECK.code))


CHECK = Check(
    code="PAD003",
    name="pad-token-without-embedding",
    severity="error",
    needs=("tokenizer",),
    explanation="""\
`tokenizer.pad_token = "<|finetune_right_pad_id|>"` raises nothing where the vocabulary lacks that token (Llama 3
and the early Llama 3.1, whose id 128004 is a reserved token): `pad_token_id` stays None. A token that was added
without resizing has an id beyond the last row of the embedding: IndexError at the first padded batch.
""",
    bad='tokenizer.pad_token = "<|finetune_right_pad_id|>"  # not in this vocabulary: pad_token_id is None',
    good="prepare(tokenizer, model)  # looks the token up and checks its id against the embedding",
    find=_find,
)
