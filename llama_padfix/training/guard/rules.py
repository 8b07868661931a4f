"""The rules of a guard: which losses and gradient norms of an update are faults, and which micro-batch has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.kinds import require_path
from llama_padfix.tokens.calls import check_tokenizer
from llama_padfix.training.guard.batch_report import count_trained
from llama_padfix.training.guard.incident import Kind, MicroBatch

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
    broken_states: Sequence[str] = ()
    """The states of the optimizer that hold nan or inf."""
    slopes: Sequence[float | None] = ()
    """The norms of the gradients at the model's outputs; none where they were not watched."""


def check_places(folder: object, tokenizer: object) -> None:
    """Raise `PadfixError` for a folder that is no path, and a tokenizer that is none."""
    if folder is not None:
        require_path(folder, "the folder of the evidence", "By name: TrainingGuard(tokenizer=tokenizer)")
    if tokenizer is not None:
        check_tokenizer(tokenizer)


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


def find_faults(update: Update) -> dict[Kind, str]:
    """Return what is wrong with the numbers of one update, in words, by kind; jumps are found in `LossHistory`."""
    faults: dict[Kind, str] = {}
    bad = next((value for value in update.losses if value is not None and not math.isfinite(value)), None)
    if bad is not None:
        faults["loss-not-finite"] = f"the loss is {bad}"
    if any(value == 0.0 and _is_fault(update, place) for place, value in enumerate(update.losses)):
        faults["zero-loss"] = "the loss is exactly 0.0"
    if update.grad_norm is not None and not math.isfinite(update.grad_norm):
        faults["gradient-not-finite"] = f"the gradient norm is {update.grad_norm}"
    if update.broken_states:
        faults["state-not-finite"] = f"the optimizer's {', '.join(update.broken_states[:3])} holds nan or inf"
    return faults


def _is_fault(update: Update, place: int) -> bool:
    """Return whether a loss of 0.0 is a fault.

    A micro-batch without a trained token adds nothing to the sum of an update that has some in others; and the model's
    own loss says nothing where another one is trained on.
    """
    micro = update.batches[place] if place < len(update.batches) else None
    if micro is not None and count_trained(micro.batch) == 0:
        return not any(update.losses)
    return micro is None or bool(micro.backward)


def has_no_label(update: Update) -> bool:
    """Return whether the batches of an update hold labels, and not one of them is trained."""
    counts = [count_trained(micro.batch) for micro in update.batches]
    return bool(counts) and not any(count is None or count for count in counts)


def is_dead(update: Update, *, slope_known: bool) -> bool:
    """Return whether a gradient of 0 is a fault: it is none where the loss has no slope at the model's output.

    So it is with rewards that are all equal, and with margins that are all reached. `slope_known` is True where the
    slopes were watched.
    """
    groups = getattr(update.optimizer, "param_groups", ())
    has_gradient = any(p.grad is not None for group in groups for p in group["params"])
    if not has_gradient or any(micro.backward for micro in update.batches):
        return True
    return any(update.slopes) if update.slopes else not slope_known


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
