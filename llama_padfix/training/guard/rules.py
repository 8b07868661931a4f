"""The rules of a guard: which losses and gradient norms of an update are faults, and which micro-batch has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llama_padfix.core.errors import PadfixError
from llama_padfix.training.guard.incident import Kind, MicroBatch
from llama_padfix.training.guard.loss_spikes import find_jump

if TYPE_CHECKING:
    import torch

Action = Literal["raise", "warn", "skip"]


@dataclass(frozen=True)
class Update:
    """The measurements of one update of the optimizer."""

    batches: Sequence[MicroBatch] = ()
    losses: Sequence[float | None] = ()
    """The loss of each micro-batch, in nats; None where it is not known."""
    grad_norm: float | None = None
    """The Euclidean norm of all gradients."""
    optimizer: torch.optim.Optimizer | None = None


def check_settings(action: str, zero_gradient_steps: int, spike: float | None) -> None:
    """Raise `PadfixError` for settings of a guard that cannot work."""
    if action not in ("raise", "warn", "skip"):
        raise PadfixError(f"action is {action!r}. A guard can 'raise', 'warn' or 'skip': action='raise'")
    if isinstance(zero_gradient_steps, bool) or zero_gradient_steps < 1:
        raise PadfixError(f"zero_gradient_steps is {zero_gradient_steps!r}. Pass 1 or more: zero_gradient_steps=3")
    if spike is not None and spike <= 3.5:
        raise PadfixError(
            f"spike is {spike!r}, and at 3.5 or less normal batches are outliers too. Pass more, or None: spike=10.0"
        )


def find_faults(
    update: Update, loss: float | None, history: Sequence[float], spike: float | None, uniform_loss: float | None
) -> dict[Kind, str]:
    """Return what is wrong with the numbers of one update, in words, by kind.

    Args:
        update: Its measurements.
        loss: The loss of the whole update, in nats.
        history: The losses of the updates before it.
        spike: The robust z-score of a spike; None for no such rule.
        uniform_loss: The loss of a uniform guess over the vocabulary.
    """
    faults: dict[Kind, str] = {}
    bad = next((value for value in update.losses if value is not None and not math.isfinite(value)), None)
    if bad is not None:
        faults["loss-not-finite"] = f"the loss is {bad}"
    if any(value == 0.0 for value in update.losses):
        faults["zero-loss"] = "the loss is exactly 0.0"
    if update.grad_norm is not None and not math.isfinite(update.grad_norm):
        faults["gradient-not-finite"] = f"the gradient norm is {update.grad_norm}"
    if spike is not None and loss is not None and math.isfinite(loss):
        jump = find_jump(loss, history, spike, uniform_loss)
        if jump:
            faults["loss-spike"] = jump
    return faults


def sum_losses(batches: Sequence[MicroBatch], losses: Sequence[float | None]) -> float | None:
    """Return the loss of one update: the sum of shares where the model divided by all its tokens, else the mean.

    Given `num_items_in_batch` (transformers 4.46 and newer) each loss is its share of the update's.
    """
    known = [value for value in losses if value is not None]
    if not known:
        return None
    shares = any("num_items_in_batch" in {**micro.batch, **micro.arguments} for micro in batches)
    return sum(known) if shares else sum(known) / len(known)


def find_bad_micro_batch(kind: Kind, losses: Sequence[float | None]) -> int:
    """Return the number of the micro-batch that a fault came from: 0 where the losses do not show it."""
    known = [(place, value) for place, value in enumerate(losses) if value is not None]
    if kind == "loss-not-finite":
        return next((place for place, value in known if not math.isfinite(value)), 0)
    if kind == "zero-loss":
        return next((place for place, value in known if value == 0.0), 0)
    return max(known, key=lambda pair: pair[1], default=(0, 0.0))[0]
