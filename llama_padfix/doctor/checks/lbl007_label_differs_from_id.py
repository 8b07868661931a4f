"""LBL007: labels that are neither -100 nor the id at their place.

A causal language model shifts the labels itself, so a label is the id at its own position or -100. Labels that were
shifted before train the token after the next one. Other causes: ids that changed after the labels were made (a BOS
removed from one alone), labels padded with 0 or -1, or collators that overwrite one of the two.
"""

from llama_padfix.doctor.check_helpers import hit_span
from llama_padfix.doctor.findings import Check, Facts, Hits, RowFacts


def _inspect(row: RowFacts, facts: Facts) -> Hits:
    wrong = row.trained & (row.labels != row.input_ids)
    if not wrong.any():
        return
    first = int(wrong.argmax())
    remark = f"label {int(row.labels[first])} at id {int(row.input_ids[first])}"
    moved = row.trained[:-1] & (row.labels[:-1] == row.input_ids[1:])
    if moved.sum() >= row.trained[:-1].sum() > 1:
        remark += "; the labels are shifted by one, and the model shifts them again"
    yield from hit_span(wrong, remark)


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
)
