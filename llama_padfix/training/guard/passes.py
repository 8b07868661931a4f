"""The forward passes since the last update, as the hook on the model records them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llama_padfix.training.guard.health import read_numbers
from llama_padfix.training.guard.hooks import watch_slope
from llama_padfix.training.guard.incident import Kind, MicroBatch

if TYPE_CHECKING:
    import torch

_MOST_KEPT = 64  # batches for each accumulated one: an update that never comes must not fill the memory
OVERFLOWS_IN_A_ROW = 20  # a loss scale of 65536 is below 1 after 17 halvings


class ForwardPasses:
    """The forward passes that the next update is made of, and the last one of an evaluation."""

    def __init__(self, accumulation: int = 1) -> None:
        self.batches: list[MicroBatch] = []
        self.evaluated = MicroBatch()
        """The last pass without gradients, or in evaluation mode once the model has been trained."""
        self.count = 0
        """How many there were since the last update; more than are kept where it does not come."""
        self._usual = accumulation
        self._trained = False
        self._slopes: list[torch.Tensor | None] = []

    def are_evaluation(self, model: torch.nn.Module | None) -> bool:
        """Return whether the model is evaluated now, so that the pass is no part of an update."""
        import torch

        training = bool(getattr(model, "training", True))
        if not torch.is_grad_enabled() or (self._trained and not training):
            return True
        self._trained = training
        return False

    @property
    def are_too_many(self) -> bool:
        """True if the last update was made of fewer: a loss scaler may have left one out."""
        return self.count >= self._usual

    def find_left_out(self) -> tuple[Kind, str, list[float | None]] | None:
        """Return the kind of fault that a loss scaler leaves updates out for, in words, and the losses; None without.

        Where the loss is computed outside of the model, its slope at the model's outputs shows it, once it was not
        finite for longer than a scaler needs to find its scale.
        """
        losses = read_numbers([micro.loss for micro in self.batches])
        bad = next((loss for loss in losses if loss is not None and not math.isfinite(loss)), None)
        if bad is not None:
            return "loss-not-finite", f"the loss is {bad}", losses
        last = self._slopes[-OVERFLOWS_IN_A_ROW * self._usual :]
        if len(last) < OVERFLOWS_IN_A_ROW * self._usual:
            return None
        if any(slope is None or math.isfinite(slope) for slope in read_numbers(last)):
            return None
        return "gradient-not-finite", f"the gradient of the model's outputs was not finite {len(last)} times", losses

    def add(self, micro: MicroBatch, output: object, *, with_slope: bool) -> bool:
        """Keep one pass, and the slope of its loss at the model's output; return False if the others were dropped."""
        full = len(self.batches) >= _MOST_KEPT * self._usual
        if full:
            self.batches.clear()
        self.batches.append(micro)
        self.count += 1
        if with_slope:
            watch_slope(output, self._slopes)
        return not full

    def take(self) -> tuple[list[MicroBatch], list[torch.Tensor | None]]:
        """Return the passes and the slopes of one update, and begin the next."""
        taken = self.batches, self._slopes
        self._usual = max(self.count, 1)
        self.batches, self._slopes, self.count = [], [], 0
        return taken
