"""TRN004: parameters that get a gradient, and that the optimizer does not hold.

An optimizer holds the parameters that it was made with. One that was made before the adapter has the frozen weights
of the base model, and none of the adapter's: each step computes gradients, changes nothing, and raises nothing. The
same happens to rows that are added by `resize_token_embeddings`, and to a copy of the model. Make the model ready
first, and the optimizer after it.
"""

from llama_padfix.doctor.findings import Check, Facts, Findings

_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")


def _find(facts: Facts) -> Findings:
    optimizer = facts.optimizer
    if optimizer is None or not optimizer.missing:
        return
    if facts.trainer is not None and facts.trainer.distributed_type in _SHARDED:
        return  # the optimizer holds shards, which are other tensors
    names = ", ".join(optimizer.examples) + (", ..." if optimizer.missing > len(optimizer.examples) else "")
    others = f" Of what it holds, {optimizer.foreign} are not trained." if optimizer.foreign else ""
    yield CHECK.found(
        f"{optimizer.missing} of {optimizer.trainable} trainable tensors are not in the optimizer and never change: "
        f"{names}.{others} Make the optimizer last: "
        "torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)",
        severity="error" if optimizer.missing == optimizer.trainable else "warning",
    )


CHECK = Check(
    code="TRN004",
    name="trainable-not-in-optimizer",
    severity="error",
    needs=("optimizer",),
    doc=__doc__,
    bad="optimizer = AdamW(model.parameters()); model = get_peft_model(model, lora)",
    good="model = get_peft_model(model, lora); optimizer = AdamW(model.parameters())",
    find=_find,
)
