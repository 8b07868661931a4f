"""LBL006: the first position has a label, in a version where that scales the loss.

Nothing comes before the first token, so its label is never predicted. transformers 4.46 to 5.7 count it all the same
when they divide the summed loss by the number of labels: with N labels, loss and gradient are (N-1)/N of the right
ones (10.2910 for 11.7611 on a row of eight labels). Other versions shift first.
"""

from llama_padfix.doctor.check_helpers import version_key, version_of
from llama_padfix.doctor.findings import Check, Facts, Hit, Hits, RowFacts

_SINCE, _UNTIL = (4, 46), (5, 8)  # the versions whose loss counts labels before it shifts them


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    version = version_of(facts, "transformers")
    if _SINCE <= version_key(version) < _UNTIL and len(row.labels) and not row.before and row.trained[0]:
        yield Hit(0, 1, remark=f"1 of {row.trained.sum()} labels, under transformers {version}")


CHECK = Check(
    code="LBL006",
    name="label-at-position-zero",
    severity="note",
    needs=("rows", "labels", "environment"),
    message="{rows} of {seen} rows ({where}) have a label at position 0, which the loss counts and cannot use.",
    traps=(28,),
    doc=__doc__,
    bad="labels = [128000, 9906, 1917]",
    good="labels = [-100, 9906, 1917]  # what PadCollator makes of it, and every row of the encoder has",
    inspect=_inspect,
)
