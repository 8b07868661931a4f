"""LBL011: an own loss that never reads the labels.

A `compute_loss` that compares the logits with the `input_ids`, or a `compute_loss_func` that does not use its second
argument, trains prompts and padding as well: all masks are without effect, and every check of labels passes. Only
what the code shows is told. A loss that names the labels, or lets the model or a library compute it, is not reported.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings


def _find(facts: Facts) -> Findings:
    name = facts.trainer.loss_without_labels if facts.trainer is not None else None
    if name is not None:
        yield CHECK.found(
            f"{name} computes the loss and reads no labels, so what they mask is trained: prompts and padding. "
            'Take the targets from the labels: inputs["labels"][:, 1:], with ignore_index=-100'
        )


CHECK = Check(
    code="LBL011",
    name="loss-without-labels",
    severity="warning",
    needs=("trainer",),
    doc=__doc__,
    bad='cross_entropy(logits[:, :-1].flatten(0, 1), inputs["input_ids"][:, 1:].flatten())',
    good='cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), ignore_index=-100)',
    find=_find,
)
