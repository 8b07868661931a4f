"""LOD002: auto_find_batch_size halves the batch and nothing makes up for it.

With `auto_find_batch_size=True` the Trainer reduces the batch of each device after an out-of-memory error (by a
tenth, or by half in older versions) and restarts. The accumulation steps stay, so the effective batch shrinks, at the
same learning rate. Set the size that fits, and accumulate.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    arguments = trainer.arguments if trainer is not None else {}
    size, steps = arguments.get("per_device_train_batch_size"), arguments.get("gradient_accumulation_steps")
    if trainer is None or not arguments.get("auto_find_batch_size") or not size or not steps:
        return
    why = "halve the batch by hand, and double gradient_accumulation_steps with it"
    yield CHECK.found(
        f"auto_find_batch_size=True: when memory runs out the {size} rows a device are reduced, and the {steps} "
        f"accumulation steps are not raised, so that the effective batch of {size * steps * trainer.world_size} "
        "becomes smaller in silence.",
        (Change("trainer.args.auto_find_batch_size", True, False, why, "manual"),),
    )


CHECK = Check(
    code="LOD002",
    name="effective-batch-may-change",
    severity="warning",
    needs=("trainer",),
    traps=(20,),
    doc=__doc__,
    bad="TrainingArguments(per_device_train_batch_size=32, auto_find_batch_size=True)",
    good="TrainingArguments(per_device_train_batch_size=8, gradient_accumulation_steps=4)",
    find=_find,
)
