"""LBL005: padded positions have labels."""

from collections.abc import Iterator

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.doctor.facts import Facts, RowFacts
from llama_padfix.doctor.findings import Check, Hit


def _inspect(row: RowFacts, facts: Facts) -> Iterator[Hit]:
    if row.attention_mask is None:
        return
    places = ((row.attention_mask == 0) & (row.labels != IGNORE_INDEX)).nonzero()[0]
    if len(places):
        yield Hit(int(places[0]), int(places[-1]) + 1, len(places))


CHECK = Check(
    code="LBL005",
    name="padding-trained",
    severity="error",
    needs=("rows", "labels"),
    message="{rows} of {seen} rows ({where}) have labels on padding, at {count} positions.",
    traps=(2,),
    explanation="""\
Positions that the attention mask hides still count in the loss: short rows train mostly on padding, the loss sinks as
the model learns to produce it, and the answers weigh less than they should. It comes from
`tokenizer(..., padding="max_length")` followed by `labels = input_ids.copy()`.
""",
    bad='row = tokenizer(text, padding="max_length"); row["labels"] = row["input_ids"].copy()',
    good="data_collator=prepared.collator  # pads at batch time, with -100 in the labels",
    inspect=_inspect,
)
