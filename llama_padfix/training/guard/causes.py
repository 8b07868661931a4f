"""From the measurements of a guard to the most likely cause, with a code."""

from __future__ import annotations

from collections.abc import Sequence

from llama_padfix.doctor.findings import Finding
from llama_padfix.training.guard.incident import Cause, Health, Kind

GUARD_CODES = {
    "GRD000": "cause-not-found",
    "GRD001": "weights-poisoned-before-the-run",
    "GRD002": "float16-overflow",
    "GRD003": "learning-rate-too-high",
    "GRD004": "no-gradient-reaches-the-weights",
    "GRD005": "loss-without-gradient",
    "GRD006": "batch-out-of-line",
    "GRD007": "optimizer-state-broken",
}
"""The causes that only a running guard can find, besides the codes of the catalog of checks."""

GROWN = 3.0  # times the weights' norm at most 32 updates earlier: a stable run changes it by a few percent


def find_cause(
    kind: Kind, health: Health, trained_tokens: int | None = None, findings: Sequence[Finding] = (), tokens: str = ""
) -> Cause:
    """Return the most likely cause: the first that fits, from the strongest evidence to the weakest.

    Args:
        kind: What the guard stopped at.
        health: The state of weights, gradients and optimizer.
        trained_tokens: The number of labels of the batch that are not -100; None where it has no labels.
        findings: The doctor's, on that batch.
        tokens: The tokens whose rows are broken, in words.
    """
    if health.broken_states and health.finite_before and (kind == "state-not-finite" or trained_tokens != 0):
        return _broken_state(health)
    if trained_tokens == 0:
        return _masked()
    if health.broken_weights:
        return _broken(health, tokens)
    if health.growth > GROWN:
        return _too_fast(
            f"The trainable weights are {health.growth:.3g} times as large as at most 32 updates ago. {_rates(health)}"
        )
    if kind in ("loss-not-finite", "gradient-not-finite", "eval-loss-not-finite"):
        return _overflow(kind, health, trained_tokens)
    if kind == "zero-gradient":
        return _no_gradient(health)
    if kind == "zero-loss":
        return _guard(
            "GRD005",
            f"The batch has {trained_tokens if trained_tokens is not None else 'an unknown number of'} trained "
            "tokens, and the loss is exactly 0.0: it is not computed from them, or every one is certain already.",
            "Look at compute_loss and at the labels in batch.txt; stop where the data is learned by heart.",
        )
    return _out_of_line(findings)


def find_error(findings: Sequence[Finding]) -> Finding | None:
    """Return the first of the doctor's findings that is an error at a place."""
    return next((finding for finding in findings if finding.severity == "error" and finding.where), None)


def _guard(code: str, message: str, fix: str) -> Cause:
    return Cause(code, GUARD_CODES[code], message, fix)


def _masked() -> Cause:
    return Cause(
        "LBL001",
        "row-without-trained-token",
        "Every label of the batch is -100, so that its loss is a mean over no token: nan, or 0 in some trainers.",
        "Encode the data with prepare(tokenizer).encode(dataset), which counts such rows and leaves them out.",
    )


def _unscaled(message: str, other: str = "") -> Cause:
    fix = f"Load in float32 (dtype='float32') and train with fp16=True{other}."
    return Cause("PRC006", "float16-weights-without-scaler", message, fix)


def _too_fast(message: str) -> Cause:
    return _guard("GRD003", message, "Lower the learning rate: 2e-4 suits LoRA, 1e-5 whole models; add warm-up.")


def _rates(health: Health) -> str:
    rates = sorted({float(group["lr"]) for group in health.groups if "lr" in group})
    return f"Learning rate: {', '.join(f'{rate:g}' for rate in rates)}." if rates else ""


def _broken(health: Health, tokens: str) -> Cause:
    parts = [
        f"{weight.name} ({weight.rows} rows, first {', '.join(map(str, weight.first_rows[:3]))})"
        for weight in health.broken_weights[:3]
    ]
    seen = f"nan or inf in {len(health.broken_weights)} weights: {'; '.join(parts)}"
    if not health.finite_before:
        return _guard(
            "GRD001",
            f"{seen}{f', the rows of {tokens}' if tokens else ''}. They were there before the first step.",
            "Download or merge the checkpoint again; add new rows with add_tokens, which gives them the mean.",
        )
    if "float16" in health.dtypes and health.loss_scale is None:
        return _unscaled(
            f"{seen}. They came with an update of float16 weights, where Adam's epsilon is 0.",
            ", or in bfloat16 where it is real",
        )
    return _too_fast(
        f"{seen}. The weights were finite at the start, and an update broke them: go back to the last checkpoint, and "
        f"do not save these. {_rates(health)}"
    )


def _broken_state(health: Health) -> Cause:
    after = " and the update broke the weights: do not save these" if health.broken_weights else ""
    return _guard(
        "GRD007",
        f"nan or inf in {len(health.broken_states)} states of {health.optimizer or 'the optimizer'}: "
        f"{', '.join(health.broken_states[:3])}. The weights were finite at the start{after}.",
        "Resume from an earlier checkpoint, or from this one without its optimizer.pt, which holds the states.",
    )


def _overflow(kind: Kind, health: Health, trained_tokens: int | None) -> Cause:
    overflow = health.overflow
    fix = "Train in bfloat16 where it is real or in float32; else clip at 0.3 and lower the learning rate."
    if overflow is not None and overflow.dtype == "float16":
        return _guard(
            "GRD002",
            f"{overflow.module} goes beyond 65504, the end of float16, on inputs of up to {overflow.largest:.3g}.",
            fix,
        )
    if kind == "gradient-not-finite" and (health.loss_scale is not None or "float16" in health.dtypes):
        return _guard("GRD002", f"{_gradients(health)} The loss is finite, the backward pass in float16 is not.", fix)
    where = f"The first output that is not finite is that of {overflow.module}." if overflow is not None else ""
    if kind == "gradient-not-finite":
        where = _gradients(health)
    tokens = " and the batch has trained tokens" if trained_tokens else ""
    if kind == "eval-loss-not-finite":
        tokens = " and the last batch of the evaluation has trained tokens" if trained_tokens else ""
        where = "A batch whose labels are all -100 has a loss of nan: look for rows without an answer in eval_dataset."
    return _guard(
        "GRD000",
        f"The weights are finite{tokens}. {where}".rstrip(),
        "Feed the batch to the model again: llama_padfix.load_batch(folder).",
    )


def _gradients(health: Health) -> str:
    names = ", ".join(health.broken_gradients[:3])
    return f"{len(health.broken_gradients)} gradients are not finite, among them {names}." if names else ""


def _no_gradient(health: Health) -> Cause:
    if not health.parameters and health.frozen_adapter:
        return _guard(
            "GRD004",
            f"All {health.frozen} parameters are frozen, {health.frozen_adapter} of an adapter among them: it was "
            "loaded to be used, not to be trained.",
            "Load it so: PeftModel.from_pretrained(model, folder, is_trainable=True).",
        )
    if not health.parameters:
        return _guard(
            "GRD004",
            f"All {health.frozen} parameters of the model are frozen.",
            "Attach an adapter (load(..., lora=True)), or set requires_grad on the weights that are to be trained.",
        )
    if health.outside_optimizer:
        return _guard(
            "GRD004",
            f"{len(health.outside_optimizer)} trainable parameters have a gradient, such as "
            f"{health.outside_optimizer[0]}, and are not in the optimizer; those that it holds have none or one of 0. "
            "It was made before the adapter, or for another model.",
            "Make it afterwards: torch.optim.AdamW(p for p in model.parameters() if p.requires_grad).",
        )
    if health.without_gradient == health.parameters:
        return _guard(
            "GRD004",
            f"None of the {health.parameters} trainable parameters has a gradient.",
            "Call model.enable_input_require_grads() with gradient checkpointing; look for detach() and no_grad().",
        )
    if "float16" in health.dtypes and health.loss_scale is None:
        return _unscaled(
            "The gradients of float16 weights are exactly 0: below 6e-8 all is 0 there, and nothing scales the loss."
        )
    return _guard(
        "GRD004",
        f"{health.parameters - health.without_gradient} trainable parameters have a gradient, and each is exactly 0.",
        "Look for a LoRA whose A and B are both 0, for a factor of 0 on the loss, and for weights that nothing uses.",
    )


def _out_of_line(findings: Sequence[Finding]) -> Cause:
    worst = find_error(findings)
    if worst is not None:
        return Cause(worst.code, worst.name, worst.message, "Read the rows in batch.txt, and fix the data.")
    return _guard(
        "GRD006",
        "Weights and gradients are finite, and the doctor finds no fault in the batch: its text is unlike the rest, "
        "or the run left its course in the updates before.",
        "Read it in batch.txt; where it belongs, clip gradients, lower the learning rate, or raise the guard's spike.",
    )
