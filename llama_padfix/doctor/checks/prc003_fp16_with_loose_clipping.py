"""PRC003: fp16 with loose gradient clipping or a high learning rate.

float16 ends at 65504. One batch with a large gradient can make a step after which activations overflow: nan. bfloat16
has a wider range. With fp16, clip tightly (0.3 as QLoRA does, not 1.0) and keep the learning rate moderate.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings

_LOOSE = 1.0  # the default of TrainingArguments
_TIGHT = 0.3  # QLoRA's value, and what `choose_precision` sets beside fp16
_HIGH_RATE = 1e-3  # adapters are trained at 1e-4 to 2e-4, whole models well below


def _find(facts: Facts) -> Findings:
    trainer = facts.trainer
    if trainer is None or not (trainer.mixed_precision == "fp16" or trainer.arguments.get("fp16")):
        return
    norm, rate = trainer.arguments.get("max_grad_norm"), trainer.arguments.get("learning_rate")
    if not norm or norm > _TIGHT:
        why = "fp16 overflows above 65504; a short step keeps away from it"
        change = Change("trainer.args.max_grad_norm", norm, _TIGHT, why, "manual")
        loose = not norm or norm > _LOOSE
        message = f"fp16 with max_grad_norm={norm}: one batch that overflows float16 may carry the weights off to nan."
        yield CHECK.found(message, (change,), severity="warning" if loose else "note")
    if rate and rate > _HIGH_RATE:
        yield CHECK.found(f"fp16 with learning_rate={rate:g}: above {_HIGH_RATE:g} fp16 runs tend to end in nan.")


CHECK = Check(
    code="PRC003",
    name="fp16-with-loose-clipping",
    severity="warning",
    needs=("trainer",),
    traps=(18,),
    doc=__doc__,
    bad="SFTConfig(fp16=True, max_grad_norm=0, learning_rate=5e-3)",
    good="SFTConfig(fp16=True, max_grad_norm=0.3, learning_rate=2e-4)",
    find=_find,
)
