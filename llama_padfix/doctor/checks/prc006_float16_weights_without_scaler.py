"""PRC006: trainable weights in float16 without the loss scaler.

A model loaded with `dtype="float16"`, and trained with fp16=False trains in pure float16. Numbers below 6e-8 are 0
there, so small gradients vanish, and a step below 5e-4 leaves a weight of 1 unchanged. Adam in the dtype of the
weights (`adamw_torch`) rounds its epsilon of 1e-8 to 0, so weights become nan in the first step, shown as 0.0.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    count = trainer.trainable_dtypes.get("float16", 0) if trainer is not None else 0
    if trainer is None or not count or trainer.mixed_precision == "fp16" or trainer.arguments.get("fp16"):
        return
    why = "train in float32 or bfloat16, or in fp16 over float32 weights"
    yield CHECK.found(
        f"{count} trainable parameters are float16 and nothing scales the loss: small gradients become 0, small steps "
        "are lost beside weights near 1, and with optim='adamw_torch' Adam's epsilon "
        f"({trainer.arguments.get('adam_epsilon')}) is 0: nan.",
        (Change("model.trainable_dtype", "float16", "float32", why, "manual"),),
    )


CHECK = Check(
    code="PRC006",
    name="float16-weights-without-scaler",
    severity="error",
    needs=("trainer",),
    traps=(17, 18),
    doc=__doc__,
    bad="AutoModelForCausalLM.from_pretrained(name, dtype='float16')  # and then Trainer(...) without fp16=True",
    good="AutoModelForCausalLM.from_pretrained(name, dtype='float32')  # fp16=True or bf16=True in the arguments",
    find=_find,
)
