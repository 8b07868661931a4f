"""PRC007: added rows, or modules that the adapter saves whole, are trained in half precision in a float32 run.

TRL casts what an adapter on a quantized model trains to bfloat16, whatever `bf16` says: for LoRA as its paper does.
Rows of the embedding and copies of whole modules start from trained values, beside which a step of 1e-4 is lost in
the 8 bits of bfloat16: much of them never moves. Cast these back when the trainer is made.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is None or trainer.mixed_precision != "no":
        return
    if trainer.quantization is None and "float32" not in trainer.frozen_dtypes:
        return  # the whole model is in half precision, as it was loaded
    for dtype in ("bfloat16", "float16"):
        if count := trainer.trained_whole.get(dtype, 0):
            yield CHECK.found(
                f"{count} trained elements of added rows and whole modules are {dtype}, in a run without mixed "
                "precision. Once the trainer is made, run: keep_trainable_float32(trainer.model, prepared.precision)"
            )


CHECK = Check(
    code="PRC007",
    name="rows-trained-in-half-precision",
    severity="warning",
    needs=("trainer",),
    doc=__doc__,
    bad='SFTTrainer(model_in_4_bit, peft_config=LoraConfig(modules_to_save=["embed_tokens"]))  # bf16=False',
    good="keep_trainable_float32(trainer.model, prepared.precision)  # between SFTTrainer(...) and train()",
    find=_find,
)
