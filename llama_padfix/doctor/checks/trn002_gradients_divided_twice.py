"""TRN002: accumulated gradients are divided by the number of batches a second time.

transformers 5.2 to 5.5 passes the number of accumulated batches to accelerate, which then divides each loss by it a
second time. The logged loss is right; the gradients are 1/N of the right ones. SGD learns N times too slowly, and
`max_grad_norm` is compared with a norm that is N times too small. `build_trainer` sets it right.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is None or trainer.divided_again_by == 1:
        return
    steps = trainer.divided_again_by
    target = "trainer.accelerator.gradient_accumulation_steps"
    yield CHECK.found(
        f"gradient_accumulation_steps={trainer.arguments.get('gradient_accumulation_steps')}: the Trainer divides the "
        f"loss of each batch by the trained tokens of the update, and accelerate by {steps} once more. Gradients are "
        f"1/{steps} of what they should be, and so is the norm that clipping sees. Run: {target} = 1",
        (Change(target, steps, 1, "the Trainer divides by the tokens of the whole update already", "manual"),),
    )


CHECK = Check(
    code="TRN002",
    name="gradients-divided-twice",
    severity="warning",
    needs=("trainer",),
    doc=__doc__,
    bad="Trainer(model, TrainingArguments(gradient_accumulation_steps=8))  # with transformers 5.3",
    good="trainer.accelerator.gradient_accumulation_steps = 1  # before trainer.train(), or transformers>=5.6",
    find=_find,
)
