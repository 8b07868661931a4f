"""PRC004: a loss of nan would be logged as 0.0.

The Trainer leaves losses that are nan or inf out of its log (`logging_nan_inf_filter`, on by default). A batch
without a trained token, or weights that are nan, show as 0.0 or as the mean of earlier losses, and the run continues.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    target, why = "logging_nan_inf_filter", "a loss of nan is then logged as nan"
    if facts.trainer is not None and facts.trainer.arguments.get(target) is True:
        message = f"{target}=True: a loss of nan is logged as the mean of the losses before it, at first 0.0."
        yield CHECK.found(message, (Change(f"trainer.args.{target}", True, False, why, "manual"),))


CHECK = Check(
    code="PRC004",
    name="nan-logged-as-zero",
    severity="note",
    needs=("trainer",),
    traps=(10, 18),
    doc=__doc__,
    bad="TrainingArguments(...)  # logging_nan_inf_filter=True: 'loss': 0.0",
    good="TrainingArguments(..., logging_nan_inf_filter=False)  # 'loss': nan",
    find=_find,
)
