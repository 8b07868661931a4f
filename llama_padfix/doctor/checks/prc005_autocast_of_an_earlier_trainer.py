"""PRC005: the mixed precision of an earlier trainer is still in force.

A second trainer in the same process inherits the precision of the first. transformers 4.x writes it into the
environment (`ACCELERATE_MIXED_PRECISION`), and in every version accelerate wraps `model.forward` in autocast and
leaves it wrapped. A comparison of bf16 with float32 in one notebook then compares bf16 with bf16.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings

_NAMES = {"bfloat16": "bf16", "float16": "fp16"}


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is None:
        return
    requested = next((name for name in ("bf16", "fp16") if trainer.arguments.get(name)), "no")
    setting = "no mixed precision" if requested == "no" else requested
    left = _NAMES.get(trainer.autocast_dtype or "")
    if left is not None and left != trainer.mixed_precision:
        why = "the forward as the class has it, without the autocast of an earlier trainer"
        yield CHECK.found(
            f"The model's forward still computes in {trainer.autocast_dtype}, since an earlier trainer wrapped it in "
            f"autocast; this trainer asks for {setting}. Run: "
            "model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)",
            (Change("model.forward", f"autocast to {left}", "unwrapped", why, "manual"),),
        )
    if trainer.mixed_precision in _NAMES.values() and trainer.mixed_precision != requested and not trainer.launched:
        yield CHECK.found(
            f"This trainer computes in {trainer.mixed_precision}, though its arguments ask for {setting}: "
            "ACCELERATE_MIXED_PRECISION is left in the environment, as an earlier TrainingArguments of transformers "
            "4.x leaves it. Run: os.environ.pop('ACCELERATE_MIXED_PRECISION', None), and make the arguments again."
        )


CHECK = Check(
    code="PRC005",
    name="autocast-of-an-earlier-trainer",
    severity="warning",
    needs=("trainer",),
    traps=(30,),
    doc=__doc__,
    bad="Trainer(model, TrainingArguments(bf16=True)).train(); Trainer(model, TrainingArguments())  # is bf16 still",
    good="model = trainer_a.accelerator.unwrap_model(model, keep_fp32_wrapper=False)",
    find=_find,
)
