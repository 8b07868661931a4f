"""Checks the updates of any training loop: stops at the first bad one, with its evidence and its cause."""

from __future__ import annotations

import logging
import math
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix.hardware.distributed import agree
from llama_padfix.training.guard.health import (
    has_finite_weights,
    observe_states,
    read_numbers,
    take_norm,
    take_state_norm,
)
from llama_padfix.training.guard.hooks import (
    find_innermost,
    hook_forward,
    hook_step,
    make_micro_batch,
    remove_all,
    uniform_loss,
)
from llama_padfix.training.guard.incident import GuardError, Incident, Kind, MicroBatch
from llama_padfix.training.guard.loss_spikes import NEXT_LOSSES, LossHistory
from llama_padfix.training.guard.passes import OVERFLOWS_IN_A_ROW, ForwardPasses
from llama_padfix.training.guard.root_cause import (
    check_first_batch,
    find_jump_of_update,
    find_root_cause,
    save_evidence,
)
from llama_padfix.training.guard.rules import (
    Action,
    Update,
    check_places,
    check_settings,
    find_bad_micro_batch,
    find_faults,
    has_no_label,
    is_dead,
    sum_losses,
)

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.doctor.findings import Report

logger = logging.getLogger(__name__)

_KINDS: tuple[Kind, ...] = ("loss-not-finite", "zero-loss", "gradient-not-finite", "state-not-finite", "loss-spike")
_MOST_ANALYZED = 3  # incidents of one kind; later ones are counted
_NORM_EVERY = 16  # updates: the norm of 16 to 32 updates ago tells a blow-up from the growth of a long run
_SKIPS_IN_A_ROW = 10  # nothing is trained any more
_MOST_STATES = 2**20  # elements of optimizer states that are read before each update; more are so every 16th


class Guard:
    """Check the updates of any training loop; `llama_padfix.TrainingGuard` adds the events of a Trainer."""

    def __init__(
        self,
        folder: str | Path | None = None,
        action: Action = "raise",
        *,
        tokenizer: TokenizerLike | None = None,
        zero_gradient_steps: int = 3,
        spike: float | None = 10.0,
        look_first: bool = True,
    ) -> None:
        check_places(folder, tokenizer)
        check_settings(action, zero_gradient_steps, spike)
        self.folder, self.action, self.tokenizer = folder, action, tokenizer
        self.zero_gradient_steps, self.spike, self.look_first = zero_gradient_steps, spike, look_first
        self.incidents: list[Incident] = []
        self.counts: Counter[str] = Counter()
        self.skipped_updates = 0
        self.sees_loss = False
        self.first_report: Report | None = None
        self._release: Callable[[], object] = lambda: None
        self._reset()

    def _reset(self) -> None:
        """Forget the run; what earlier runs have shown (incidents, counts, the first report) stays."""
        self._model: torch.nn.Module | None = None
        self._passes = ForwardPasses()
        self._history = LossHistory(self.spike)
        self._step = self._zeros = self._skips = self._overflows = 0
        self._makes_updates = False  # a Trainer reports each, also one that a loss scaler left out
        self._states_read = False
        self._knows_slope = self.zero_gradient_steps == 1  # of the loss; else after the first gradient of 0
        self._told: set[str] = set()
        self._norms: deque[torch.Tensor | None] = deque(maxlen=2)
        self._finite_before = True
        self._first_checked = not self.look_first
        self._parent = Path(self.folder or "guard")

    def attach(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, *, accumulation: int = 1
    ) -> Guard:
        """Record every forward pass of a model and check it before every step of an optimizer.

        Puts one hook on each, and reads every weight once. `detach`, or the end of a `with` block, removes the hooks.

        Args:
            model: The model inside DDP or a compiled module.
            optimizer: A torch optimizer or a wrapper around one, such as accelerate's.
            accumulation: How many batches make one update.

        Returns:
            The guard itself.
        """
        finite = has_finite_weights(model)
        self.detach()
        self._reset()
        self._model, self._passes = model, ForwardPasses(accumulation)
        self._record_weight_norm()
        self._finite_before = finite
        self._history.chance = uniform_loss(model)
        handles = [hook_forward(model, self.on_forward)]
        inner = find_innermost(optimizer)
        if inner is not None and hasattr(inner, "register_step_pre_hook"):
            handles.append(hook_step(inner, self._before_step))
        self._release = weakref.finalize(self, remove_all, handles)
        return self

    def detach(self) -> None:
        """Remove the hooks from the model and the optimizer."""
        self._release()
        self._passes, self._model = ForwardPasses(), None

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def watch(
        self,
        loss: torch.Tensor | float,
        grad_norm: torch.Tensor | float | None = None,
        *,
        batch: Mapping[str, object] | None = None,
        step: int | None = None,
        model: torch.nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> bool:
        """Check one update between `loss.backward()` and `optimizer.step()`.

        With several processes each of them must call this.

        Args:
            loss: The loss of the update, a scalar in nats.
            grad_norm: The Euclidean norm of all gradients. It is measured if it is None and `optimizer` is given.
            batch: The keywords of the model, kept as evidence.
            step: The number of the update, from 1; counted if None.
            model: Searched for the cause of an incident.
            optimizer: As `model`.

        Returns:
            False if this update is to be left out (`action="skip"`).

        Raises:
            GuardError: The update is bad and `action` is "raise".
        """
        self._model = model if model is not None else self._model
        if self._model is not None and not self._norms:
            self._history.chance = uniform_loss(self._model)
            self._record_weight_norm()
        self._passes.batches = [make_micro_batch(batch or {}, loss, trained=True)]
        self._step = self._step if step is None else step - 1
        return self._check_update(find_innermost(optimizer), grad_norm)

    def on_forward(self, micro: MicroBatch, output: object = None) -> None:
        """Keep one forward pass until the update that it belongs to."""
        passes = self._passes
        if passes.are_evaluation(self._model):
            passes.evaluated = micro
            return
        if passes.are_too_many and not self._makes_updates:
            self._check_left_out()
        if not passes.add(micro, output, with_slope=self._knows_slope or passes.are_too_many):
            self._tell(
                "%d forward passes and no update by the optimizer that is watched: their batches are no longer kept, "
                "and only their losses are checked. Where so many make one update: "
                "attach(model, optimizer, accumulation=...)",
                passes.count,
            )
        self.sees_loss = self.sees_loss or micro.loss is not None

    def _tell(self, words: str, *arguments: object) -> None:
        """Log a warning, once in a run."""
        if words not in self._told:
            self._told.add(words)
            logger.warning(words, *arguments)

    def _check_left_out(self) -> None:
        """Check the passes of updates that no optimizer made: a loss scaler leaves out those with nan, unseen."""
        if fault := self._passes.find_left_out():
            kind, seen, losses = fault
            update = Update(self._passes.take()[0], losses)
            self._step += 1
            self._handle_incident(kind, f"{seen}, and no update followed", update)

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Check the update that `optimizer` is about to make; one to leave out loses its gradients."""
        if not self._check_update(optimizer):
            optimizer.zero_grad(set_to_none=True)  # not to 0: momentum and weight decay would move the weights then

    def _record_weight_norm(self) -> None:
        """Keep the norm of the trainable weights, which shows at an incident how fast they grew."""
        if self._model is not None:
            self._norms.append(take_norm(p for p in self._model.parameters() if p.requires_grad))

    def _find_faults(self, update: Update, loss: float | None) -> dict[Kind, str]:
        """Return the faults of an update by kind, and add its loss to the history."""
        faults = find_faults(update)
        norm = self._norms[0] if self._norms else None
        jump, is_fault = find_jump_of_update(self._history, loss, update, self._model, self.tokenizer, norm)
        if jump and (is_fault or self.action == "skip"):
            faults["loss-spike"] = jump
        elif jump:
            self._tell("Step %d: %s. If %d more losses stay there, it is a fault.", self._step, jump, NEXT_LOSSES)
        return faults

    def _check_logged_loss(self, loss: float) -> None:
        """Check a logged mean of losses; 0.0 may be rounding there and is no fault."""
        for kind, words in self._find_faults(Update(losses=[loss or None]), loss).items():
            self._handle_incident(kind, f"in the log {words}", may_skip=False)

    def _measure(
        self, optimizer: torch.optim.Optimizer | None, given: torch.Tensor | float | None, overflowed: bool
    ) -> Update:
        """Return the losses since the last update and the gradient norm, read in one transfer."""
        import torch

        batches, slopes = self._passes.take()
        norm = given if given is None or isinstance(given, torch.Tensor) else torch.tensor(float(given))
        if given is None and optimizer is not None:
            norm = take_norm(p.grad for group in optimizer.param_groups for p in group["params"])
        scale = getattr(optimizer, "grad_scale", None)
        whole = not self._states_read or self._step % _NORM_EVERY == 0
        states = take_state_norm(optimizer, math.inf if whole else _MOST_STATES)
        self._states_read = self._states_read or states is not None
        scalars = [*(micro.loss for micro in batches), *slopes, norm, scale, states]
        *losses, grad_norm, divisor, state = read_numbers(scalars)
        losses, slope = losses[: len(batches)], losses[len(batches) :]
        if given is None and optimizer is not None:
            grad_norm = 0.0 if grad_norm is None else grad_norm / (divisor or 1.0)
        # A loss scaler looks for its largest scale by overflowing: that is no fault until the scale is used up.
        scaled = getattr(optimizer, "found_inf", None) is not None
        overflowed = overflowed or (scaled and grad_norm is not None and not math.isfinite(grad_norm))
        self._overflows = self._overflows + 1 if overflowed else 0
        if overflowed:
            grad_norm = None if self._overflows <= OVERFLOWS_IN_A_ROW else math.inf
        named = dict(self._model.named_parameters()) if self._model is not None else {}
        broken = () if state is None or math.isfinite(state) else observe_states(optimizer, named)[0]
        return Update(batches, losses, grad_norm, optimizer, broken, slope)

    def _check_update(
        self,
        optimizer: torch.optim.Optimizer | None,
        grad_norm: torch.Tensor | float | None = None,
        *,
        overflowed: bool = False,
        may_skip: bool = True,
    ) -> bool:
        """Check the forward passes since the last update and the gradients; return True if the update may be made."""
        self._step += 1
        update = self._measure(optimizer, grad_norm, overflowed)
        self._check_first_batch(update)
        faults = self._find_faults(update, sum_losses(update.batches, update.losses))
        # The gradient is zero if it is zero in every process: a shard of a model may have none.
        zero = update.grad_norm == 0.0
        own = [
            *(kind in faults for kind in _KINDS),
            not zero,
            zero and is_dead(update, slope_known=self._knows_slope),
        ]
        *flags, moved, dead, untrained = agree([*own, zero and has_no_label(update)])
        self._knows_slope = not moved or self.zero_gradient_steps == 1
        self._zeros = self._zeros + 1 if dead and not moved else 0
        if untrained and not moved:
            faults["zero-gradient"] = "the gradient norm is 0, and every label of the update is -100"
        elif self._zeros >= self.zero_gradient_steps:
            faults["zero-gradient"] = f"the gradient norm was 0 over {self._zeros} updates"
        elif not moved and not dead:
            self._tell("The gradient is 0, and so is that of the logits: no reward or margin has a slope. It goes on.")
        kind = next((kind for kind, flag in zip(_KINDS, flags, strict=False) if flag), None)
        kind = "zero-gradient" if kind is None and "zero-gradient" in faults else kind
        if kind is None:
            if self._step % _NORM_EVERY == 0:
                self._record_weight_norm()
            self._skips = 0
            return True
        seen = faults.get(kind, "another process found a fault in its batch, this one did not")
        return self._handle_incident(kind, seen, update, is_own=kind in faults, may_skip=may_skip)

    def _handle_incident(
        self, kind: Kind, seen: str, update: Update | None = None, *, is_own: bool = True, may_skip: bool = True
    ) -> bool:
        """Analyze one incident, then raise, warn or skip; return True if the update may be made.

        Evidence is written once for each kind and cause, and `is_own` is False if only other processes see the fault.
        """
        update = update or Update()
        self.counts[kind] += 1
        stuck = self.action == "skip" and may_skip and self._skips + 1 > _SKIPS_IN_A_ROW
        if self.counts[kind] <= _MOST_ANALYZED or self.action == "raise" or stuck:
            if stuck:
                seen = f"{seen}, and {self._skips} updates before it were skipped: nothing trains any more"
            place = find_bad_micro_batch(kind, update.losses)
            micro = update.batches[place] if update.batches else MicroBatch()
            [norm] = read_numbers([self._norms[0] if self._norms else None])
            found = find_root_cause(
                kind, micro, update.optimizer, self._model, self.tokenizer, norm, self._finite_before
            )
            incident = Incident(kind, self._step, seen, found.cause, tuple(update.losses), update.grad_norm, place)
            is_new = (kind, found.cause.code) not in {(other.kind, other.cause.code) for other in self.incidents}
            if is_new and is_own:
                incident = save_evidence(
                    self._parent, incident, update.batches, found, self._history.losses, self.tokenizer
                )
            self.incidents.append(incident)
            if self.action == "raise" or stuck:
                self.detach()
                raise GuardError(incident)
            if is_new:
                logger.warning("%s", incident)
        if self.action == "warn" or not may_skip:
            return True
        self.skipped_updates += 1
        self._skips += 1
        return False

    def _check_first_batch(self, update: Update) -> None:
        if self._first_checked or not update.batches:
            return
        self._first_checked = True
        self.first_report = check_first_batch(update.batches[0], self.tokenizer)
        for finding in self.first_report.findings if self.first_report is not None else ():
            if finding.where == "batch" and finding.severity in ("error", "warning"):
                logger.warning("The first batch: %s", finding)
