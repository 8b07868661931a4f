"""LBL001: a row whose labels are all -100.

A batch of such rows has a loss of 0/0 = nan, which the Trainer logs as 0.0 (`logging_nan_inf_filter`); in TRL 1.16 it
is 0.0 itself, in training and evaluation. In other batches they take time and memory, train nothing, and dilute the
evaluation loss. In DPO and KTO the completion was cut off, and its log-probability is 0. Causes: truncation that
removed the answer, templates without `{% generation %}`, response markers that are not found. TRL drops a row whose
prompt fills `max_length`, but keeps it where it packs. It is a note where packing cuts long rows into pieces, of which
some hold nothing but a prompt.
"""

from dataclasses import replace

from llama_padfix.doctor.findings import Check, Facts, Finding, Hit, Hits, RowFacts
from llama_padfix.doctor.row_facts import SourceTotals

_PIECE = "a piece of a longer row"


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    if not row.trained.any():
        arguments = facts.trainer.arguments if facts.trainer is not None else {}
        cuts = arguments.get("packing") and arguments.get("packing_strategy") in ("bfd_split", "wrapped")
        yield Hit(0, len(row.input_ids), remark=_PIECE if cuts else "")


def _judge(found: Finding, totals: SourceTotals) -> Finding:
    are_pieces = found.rows < totals.seen and all(each.remark == _PIECE for each in found.evidence)
    return replace(found, severity="note") if are_pieces else found


CHECK = Check(
    code="LBL001",
    name="row-without-trained-token",
    severity="error",
    needs=("rows", "labels"),
    message="{rows} of {seen} rows ({where}) have no trained token: every label is -100.",
    traps=(10,),
    doc=__doc__,
    bad="labels = [-100, -100, -100, -100]  # the answer was cut off at max_length",
    good="prepared.encode(dataset)  # such rows do not leave the encoder, and are counted",
    inspect=_inspect,
    judge=_judge,
)
