"""PAD007: batches to train on are padded on the left.

Generation pads on the left, and training on the right. In a left-padded row the position ids begin in the padding, so
the model reads its prompt at other positions than at inference. Truncation on the left removes BOS and system prompt.
"""

from llama_padfix.doctor.check_helpers import real_span
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    first, last = real_span(row)
    if 0 < first < last:
        yield Hit(0, first, first)


CHECK = Check(
    code="PAD007",
    name="left-padded-training-rows",
    severity="warning",
    needs=("rows", "labels"),
    message="{rows} of {seen} rows ({where}) with labels are padded on the left, {count} positions in all.",
    traps=(4,),
    doc=__doc__,
    bad='tokenizer.padding_side = "left"  # and then trainer.train()',
    good="data_collator=prepared.collator  # right, whatever the tokenizer says",
    inspect=_inspect,
)
