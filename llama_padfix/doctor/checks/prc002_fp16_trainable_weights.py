"""PRC002: trainable weights in float16 beside the loss scaler of fp16.

With fp16=True torch's GradScaler scales the loss, and divides the gradients before the step. It refuses gradients in
float16: `ValueError: Attempting to unscale FP16 gradients.` Trainable weights must be float32, and autocast still
computes in float16. Frozen weights, such as the base of an adapter, may stay in float16.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    count = trainer.trainable_dtypes.get("float16", 0) if trainer is not None else 0
    if trainer is not None and count and (trainer.mixed_precision == "fp16" or trainer.arguments.get("fp16")):
        why = "the loss scaler refuses gradients in float16; autocast still computes in float16"
        yield CHECK.found(
            f"fp16=True, and {count} of {sum(trainer.trainable_dtypes.values())} trainable parameters are float16: "
            "the first step raises 'Attempting to unscale FP16 gradients'.",
            (Change("model.trainable_dtype", "float16", "float32", why, "manual"),),
        )


CHECK = Check(
    code="PRC002",
    name="fp16-trainable-weights",
    severity="error",
    needs=("trainer",),
    traps=(17,),
    doc=__doc__,
    bad="model = AutoModelForCausalLM.from_pretrained(name, dtype='float16'); SFTConfig(fp16=True)",
    good="for p in model.parameters():\n    if p.requires_grad:\n        p.data = p.data.float()",
    find=_find,
)
