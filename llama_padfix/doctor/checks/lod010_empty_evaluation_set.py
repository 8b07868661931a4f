"""LOD010: the evaluation set has no rows.

`evaluate()` then returns no `eval_loss`: nothing is measured, `load_best_model_at_end` and early stopping raise
KeyError at the first evaluation, after hours perhaps. Causes: a split that is too small, a filter that leaves
nothing, rows that the trainer drops.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    for sample in facts.samples:
        if sample.source.startswith("eval") and sample.total == 0:
            yield CHECK.found(
                f"There are no rows for the {sample.source}: evaluation measures nothing and has no eval_loss. "
                "Give rows, rows.train_test_split(test_size=0.1), or pass no eval_dataset."
            )


CHECK = Check(
    code="LOD010",
    name="empty-evaluation-set",
    severity="error",
    needs=("trainer",),
    doc=__doc__,
    bad="Trainer(model, args, train_dataset=rows, eval_dataset=rows.select([]))",
    good='split = rows.train_test_split(test_size=0.1); Trainer(..., eval_dataset=split["test"])',
    find=_find,
)
