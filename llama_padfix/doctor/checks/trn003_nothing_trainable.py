"""TRN003: no parameter of the model requires a gradient.

`PeftModel.from_pretrained(model, folder)` loads an adapter to be used, frozen; `is_trainable=True` loads it to be
trained on. transformers' Trainer then raises that the loss does not require a gradient. SFTTrainer, which checkpoints
gradients by default, runs to the end with a gradient norm of 0 and changes nothing. Causes besides:
`requires_grad_(False)` on all of the model, or a quantized model without an adapter.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer, optimizer = facts.trainer, facts.optimizer
    if (trainer is not None and trainer.trainable_dtypes) or (trainer is None and optimizer and optimizer.trainable):
        return
    if facts.model is not None and facts.model.is_peft:
        fix = "Load the adapter to train on: PeftModel.from_pretrained(model, folder, is_trainable=True)"
    elif trainer is not None and trainer.quantization is not None:
        fix = f"Its weights are quantized ({trainer.quantization}): add an adapter, SFTTrainer(..., peft_config=lora)"
    else:
        fix = "Thaw it before the trainer or the optimizer is made: model.requires_grad_(True)"
    yield CHECK.found(f"No parameter of the model is trainable, so training changes nothing. {fix}")


CHECK = Check(
    code="TRN003",
    name="nothing-trainable",
    severity="error",
    needs=("training",),
    doc=__doc__,
    bad="PeftModel.from_pretrained(model, folder)  # and SFTTrainer: the gradient norm is 0 to the end",
    good="PeftModel.from_pretrained(model, folder, is_trainable=True)",
    find=_find,
)
