"""PAD005: padding on the left in training.

Training pads on the right, so that position ids begin at the first token. Batched generation pads on the left, so
that prompts end together. `with padding_side(tokenizer, "left"):` switches for a block.
"""

from llama_padfix.doctor.findings import Change, Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    if facts.padding_side != "right":
        why = "training pads on the right; padding_side(tokenizer, 'left') switches for generation"
        change = Change("tokenizer.padding_side", facts.padding_side, "right", why)
        yield CHECK.found(f"tokenizer.padding_side is {facts.padding_side!r}.", (change,))


CHECK = Check(
    code="PAD005",
    name="left-padding-in-training",
    severity="warning",
    needs=("tokenizer",),
    traps=(4,),
    doc=__doc__,
    bad='tokenizer.padding_side = "left"  # and then trainer.train()',
    good='with padding_side(tokenizer, "left"): model.generate(...)',
    find=_find,
)
