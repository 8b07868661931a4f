"""LBL007: labels that are neither -100 nor the id at their place.

A causal language model shifts the labels itself, so a label is the id at its own position or -100. Labels that were
shifted before train the token after the next one. A loss of your own may be made for such labels: it is a warning
where that cannot be told by trying it. The other checks look at what shifted labels stand for. Other causes: ids that
changed after the labels were made (a BOS removed from one alone), labels padded with 0 or -1, or collators that
overwrite one of them.
"""

from dataclasses import replace

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.doctor.check_helpers import hit_span
from llama_padfix.doctor.findings import Check, Facts, Finding, Hits, RowFacts
from llama_padfix.doctor.row_facts import SourceTotals

_SHIFTED = "; the labels are shifted by one, and {} shifts them again"
_MAY_BE_RIGHT = "; the labels are shifted by one, which is right only if "


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    labels = row.labels if row.shifted is None else row.shifted
    wrong = (labels != IGNORE_INDEX) & (labels != row.input_ids)
    if not wrong.any():
        return
    first = int(wrong.argmax())
    remark = f"label {int(labels[first])} at id {int(row.input_ids[first])}"
    if row.shifted is not None:
        trainer = facts.trainer
        own, shifts = (trainer.own_loss, trainer.own_loss_shifts) if trainer is not None else (None, True)
        if own is not None and shifts is False:
            return  # the loss is made for such labels
        remark += f"{_MAY_BE_RIGHT}{own} does not shift them again" if own and shifts is None else ""
        remark += "" if own and shifts is None else _SHIFTED.format(own or "the model")
    yield from hit_span(wrong, remark)


def _judge(found: Finding, totals: SourceTotals) -> Finding:
    may_be_right = all(_MAY_BE_RIGHT in each.remark for each in found.evidence)
    return replace(found, severity="warning") if may_be_right else found


CHECK = Check(
    code="LBL007",
    name="label-differs-from-id",
    severity="error",
    needs=("rows", "labels"),
    message="{rows} of {seen} rows ({where}) have {count} labels that are neither -100 nor the id at their place.",
    traps=(35,),
    doc=__doc__,
    bad='labels = input_ids[1:] + [tokenizer.eos_token_id]  # "the next token"',
    good="labels = [id if trained else -100 for ...]  # the model shifts",
    inspect=_inspect,
    judge=_judge,
)
