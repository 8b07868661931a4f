"""PRC001: bf16 on a device that only emulates it.

`torch.cuda.is_bf16_supported()` is True on a T4 and on a V100, since torch counts emulation in float32. Training is
then several times slower than in fp16. GPUs of compute capability 8.0 and newer compute bfloat16; other backends as
documented by the vendor. `choose_precision()` returns the choice with its reason.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is None or trainer.device_type == "cpu" or trainer.advised_dtype in (None, "bfloat16"):
        return
    is_set = "bf16" in (trainer.mixed_precision, trainer.autocast_dtype) or bool(trainer.arguments.get("bf16"))
    weights = {**trainer.trainable_dtypes, **trainer.frozen_dtypes}.get("bfloat16", 0)
    if is_set or weights:
        held = "bf16=True" if is_set else f"{weights} weights are bfloat16"
        name, after = ("fp16", True) if trainer.advised_dtype == "float16" else ("bf16", False)
        change = Change(f"trainer.args.{name}", not after, after, trainer.advised_reason, "manual")
        yield CHECK.found(f"{held}, but {trainer.advised_reason}", (change,))


CHECK = Check(
    code="PRC001",
    name="emulated-bf16",
    severity="warning",
    needs=("trainer",),
    traps=(16,),
    doc=__doc__,
    bad="SFTConfig(bf16=torch.cuda.is_bf16_supported())  # True on a T4",
    good="SFTConfig(**prepare(tokenizer, model).training_args)  # fp16=True on a T4",
    find=_find,
)
