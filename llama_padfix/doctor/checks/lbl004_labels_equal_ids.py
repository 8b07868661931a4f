"""LBL004: rows of conversations in which everything is trained, the user's words too.

The labels are the ids, so the model also learns to write the user's questions and the system prompt. TRL does that
with `messages` by default, and every collator does it to rows without labels. Plain text is not reported.
"""

from llama_padfix.doctor.check_helpers import everything_is_trained, real_span, turns_of
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    turns = [turn for turn in turns_of(row, facts) if not turn.opened]
    if turns and everything_is_trained(row, facts):
        first, last = real_span(row)
        answered = sum(turn.end - turn.start + (turn.stop_id is not None) for turn in turns)
        remark = f"{answered} of {last - first} tokens are the assistant's"
        yield Hit(first, turns[0].start, last - first - answered, remark)


CHECK = Check(
    code="LBL004",
    name="labels-equal-ids",
    severity="warning",
    needs=("rows", "labels", "markers"),
    message="{rows} of {seen} rows ({where}) train all of a conversation: {count} tokens of prompts and headers.",
    traps=(12,),
    doc=__doc__,
    bad='row["labels"] = list(row["input_ids"])',
    good="prepared.encode(dataset)  # or SFTConfig(assistant_only_loss=True) with a template that marks its turns",
    inspect=_inspect,
)
