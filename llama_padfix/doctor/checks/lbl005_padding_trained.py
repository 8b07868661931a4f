"""LBL005: padded positions have labels.

Positions that the attention mask hides still count in the loss. Short rows then train mostly on padding. It comes
from `tokenizer(..., padding="max_length")` followed by `labels = input_ids.copy()`. In rows without a mask a run of
the pad token at an end is padding; where it also ends a turn, the first one of the run is that end.
"""

from llama_padfix.doctor.check_helpers import hit_span, real_part
from llama_padfix.doctor.findings import Check, Facts, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    yield from hit_span(~real_part(row) & row.trained)


CHECK = Check(
    code="LBL005",
    name="padding-trained",
    severity="error",
    needs=("rows", "labels"),
    message="{rows} of {seen} rows ({where}) have labels on padding, at {count} positions.",
    traps=(2,),
    doc=__doc__,
    bad='row = tokenizer(text, padding="max_length"); row["labels"] = row["input_ids"].copy()',
    good="data_collator=prepared.collator  # pads at batch time, with -100 in the labels",
    inspect=_inspect,
)
