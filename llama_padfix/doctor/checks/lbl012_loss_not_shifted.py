"""LBL012: a loss of your own compares each token with itself.

The logits at a place predict the next token. transformers' own losses shift the labels by one; a `compute_loss` or
`compute_loss_func` of your own gets logits and labels of the same places, and must do it itself. Without the shift the
model learns to repeat its input: the loss falls to almost nothing, and what is generated is one token again and again.
The function was tried on made-up logits. Labels that are the next ids already need no shift (LBL007).
"""

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    trainer = facts.trainer
    if trainer is None or trainer.own_loss_shifts is not False or row.shifted is not None:
        return
    places = ((row.labels != IGNORE_INDEX) & (row.labels == row.input_ids)).nonzero()[0]
    if len(places):
        yield Hit(int(places[0]), int(places[-1]) + 1, len(places), f"{trainer.own_loss} does not shift them")


CHECK = Check(
    code="LBL012",
    name="loss-not-shifted",
    severity="error",
    needs=("rows", "labels", "trainer"),
    message="{rows} of {seen} rows ({where}) have labels at the places of their ids, and your own loss does not shift "
    "them: it compares each token with itself.",
    doc=__doc__,
    bad="cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())",
    good="cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())",
    inspect=_inspect,
)
