"""LBL004: rows of conversations in which everything is trained, the user's words too.

The labels are the ids, so the model also learns to write the user's questions and the system prompt. Every collator
does that to rows without labels. It is a note where SFTTrainer made the labels itself, as it does of `messages` unless
`assistant_only_loss=True` is set: that is what this trainer does by default. Plain text is not reported.
"""

from dataclasses import replace

from llama_padfix.doctor.check_helpers import everything_is_trained, real_span, turns_of
from llama_padfix.doctor.findings import Check, Facts, Finding, Hit, Hits, RowFacts
from llama_padfix.doctor.row_facts import SourceTotals

_BY_DEFAULT = "; SFTTrainer trains all of messages by default"


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    turns = [turn for turn in turns_of(row, facts) if not turn.opened]
    if turns and everything_is_trained(row, facts):
        first, last = real_span(row)
        answered = sum(turn.end - turn.start + (turn.stop_id is not None) for turn in turns)
        remark = f"{answered} of {last - first} tokens are the assistant's"
        remark += _BY_DEFAULT if facts.trainer is not None and facts.trainer.trains_all_by_default else ""
        yield Hit(first, turns[0].start, last - first - answered, remark)


def _judge(found: Finding, totals: SourceTotals) -> Finding:
    by_default = all(each.remark.endswith(_BY_DEFAULT) for each in found.evidence)
    return replace(found, severity="note") if by_default else found


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
    judge=_judge,
)
