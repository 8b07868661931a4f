"""Judges the updates of any training loop: the first sick one is stopped at, with its evidence and its cause."""

from __future__ import annotations

import logging
import math
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.findings import Report
from llama_padfix.hardware.distributed import agree, get_rank
from llama_padfix.training.guard.evidence import write_evidence
from llama_padfix.training.guard.health import find_broken_weights, observe_health, read_numbers, take_norm
from llama_padfix.training.guard.hooks import (
    add_hooks,
    find_innermost,
    name_layer,
    read_token_chances,
    remove_all,
    split_batch,
    sum_losses,
)
from llama_padfix.training.guard.incident import GuardError, Incident, Kind, MicroBatch
from llama_padfix.training.guard.loss_spikes import WINDOW, find_jump
from llama_padfix.training.guard.root_cause import Findings, draw, find_root_cause, read_batch

if TYPE_CHECKING:
    import torch

__all__ = ["Action", "Guard"]

Action = Literal["raise", "warn", "skip"]

logger = logging.getLogger(__name__)

_KINDS: tuple[Kind, ...] = ("loss-not-finite", "zero-loss", "gradient-not-finite", "loss-spike", "zero-gradient")
_ONE_PROCESS = ("loss-not-finite", "zero-loss", "loss-spike")  # may be seen by one process alone
_LOOKS = 3  # incidents of one kind that are looked into; the rest of them is counted
_WEIGHED_EVERY = 16  # updates: the last 16 to 32 tell a blow-up from the growth of a long run
_SKIPS_IN_A_ROW = 10  # nothing trains any more
_OVERFLOWS_IN_A_ROW = 20  # a loss scale of 65536 is below 1 after 17 halvings
_MOST_FORWARDS = 64  # for each accumulated batch; more without an update means that the run was left


class Guard:
    """Judges the updates of any loop; `llama_padfix.TrainingGuard` is this with the events of a Trainer."""

    def __init__(
        self,
        folder: str | Path | None = None,
        action: Action = "raise",
        *,
        tokenizer: Any = None,
        zero_gradient_steps: int = 3,
        spike: float | None = 10.0,
        look_first: bool = True,
    ) -> None:
        if action not in ("raise", "warn", "skip"):
            raise PadfixError(f"action is {action!r}. A guard can 'raise', 'warn' or 'skip': action='raise'")
        if isinstance(zero_gradient_steps, bool) or zero_gradient_steps < 1:
            raise PadfixError(f"zero_gradient_steps is {zero_gradient_steps!r}. Pass 1 or more: zero_gradient_steps=3")
        if spike is not None and spike <= 3.5:
            raise PadfixError(
                f"spike is {spike!r}, and from 3.5 down sane batches are outliers too. Pass more, or None: spike=10.0"
            )
        self.folder, self.action, self.tokenizer = folder, action, tokenizer
        self.zero_gradient_steps, self.spike, self.look_first = zero_gradient_steps, spike, look_first
        self.incidents: list[Incident] = []
        self.counts: Counter[str] = Counter()
        self.skipped_updates = 0
        self.sees_loss = False
        self.first_report: Report | None = None
        self._release: Callable[[], Any] = lambda: None
        self._forget()

    def _forget(self) -> None:
        """Start anew, but for what earlier runs have shown."""
        self._model: Any = None
        self._pending: list[MicroBatch] = []
        self._most_pending = _MOST_FORWARDS
        self._history: deque[float] = deque(maxlen=WINDOW)
        self._step = self._zeros = self._skips = self._overflows = 0
        self._chance: float | None = None
        self._norms: deque[torch.Tensor | None] = deque(maxlen=2)
        self._finite_before = True
        self._looked = not self.look_first
        self._parent = Path(self.folder or "guard")

    def attach(self, model: Any, optimizer: Any = None, *, accumulation: int = 1) -> Guard:
        """Watch every forward pass of `model` and judge it before every step of `optimizer`; returns the guard.

        A hook on each: `detach`, or the end of a `with`, takes them off. `model` is the one inside DDP or a compiled
        module. `accumulation` is the number of batches for each update. Reads every weight once.
        """
        self.detach()
        self._forget()
        self._model, self._most_pending = model, _MOST_FORWARDS * accumulation
        self._weigh()
        [norm] = read_numbers([take_norm(model.parameters())])
        sound = norm is None or math.isfinite(norm)
        self._finite_before = sound or not any(find_broken_weights(dict(model.named_parameters())))
        self._chance = read_token_chances(model)
        handles = [add_hooks(self.note, model)]
        optimizer = find_innermost(optimizer)
        if hasattr(optimizer, "register_step_pre_hook"):
            weak = weakref.WeakMethod(self._before_step)
            handles.append(optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: _call(weak, optimizer)))
        self._release = weakref.finalize(self, remove_all, handles)
        return self

    def detach(self) -> None:
        """Take the hooks off; nothing is left on the model or the optimizer."""
        self._release()
        self._pending, self._model = [], None

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def watch(
        self,
        loss: torch.Tensor | float,
        grad_norm: torch.Tensor | float | None = None,
        *,
        batch: Mapping[str, Any] | None = None,
        step: int | None = None,
        model: Any = None,
        optimizer: Any = None,
    ) -> bool:
        """Judge one update between `loss.backward()` and `optimizer.step()`; False means: leave this update out.

        `loss` and `grad_norm` are scalars; the norm is measured where it is None and the `optimizer` is given.
        `batch` holds the keywords of the model. `model` and `optimizer` serve the search for the cause. With several
        processes each of them must call this. Raises `GuardError` where `action` is "raise".
        """
        self._model = model if model is not None else self._model
        if self._model is not None and not self._norms:
            self._chance = read_token_chances(self._model)
            self._weigh()
        self._pending = [split_batch(batch or {}, loss)]
        self._step = self._step if step is None else step - 1
        return self._judge(find_innermost(optimizer), grad_norm)

    def note(self, micro: MicroBatch) -> None:
        """Keep one forward pass until the update that it belongs to."""
        self._pending.append(micro)
        self.sees_loss = self.sees_loss or micro.loss is not None
        if len(self._pending) > self._most_pending:  # the run that attached this guard ended in an error
            self.detach()

    def _before_step(self, optimizer: Any) -> None:
        """Judge the update that `optimizer` is about to make; one to leave out loses its gradients."""
        if not self._judge(optimizer):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None  # not 0: momentum and weight decay would move the weights all the same

    def _weigh(self) -> None:
        """Keep the norm of the trainable weights, to tell at an incident how fast they grew."""
        if self._model is not None:
            self._norms.append(take_norm(p for p in self._model.parameters() if p.requires_grad))

    def judge_log(self, loss: float) -> None:
        """Judge a mean of losses that somebody logged; 0.0 may be rounding there and says nothing."""
        seen = self._see([loss or None], None, loss)
        self._history.append(loss)
        for kind, words in seen.items():
            self._meet(kind, f"in the log {words}", may_skip=False)

    def _judge(self, optimizer: Any, given: Any = None, *, overflowed: bool = False, may_skip: bool = True) -> bool:
        """Look at the forward passes since the last update and at the gradients; True where the update may be made."""
        import torch

        batches, self._pending = self._pending, []
        self._step += 1
        norm = given if given is None or isinstance(given, torch.Tensor) else torch.tensor(float(given))
        measured = given is None and optimizer is not None
        if measured:
            norm = take_norm(p.grad for group in optimizer.param_groups for p in group["params"])
        scale = getattr(optimizer, "grad_scale", None)
        *losses, grad_norm, divisor = read_numbers([*(micro.loss for micro in batches), norm, scale])
        if measured:
            grad_norm = 0.0 if grad_norm is None else grad_norm / (divisor or 1.0)
        # A loss scaler looks for its largest scale by overflowing: that is no fault until the scale is used up.
        scaled = getattr(optimizer, "found_inf", None) is not None
        overflowed = overflowed or (scaled and grad_norm is not None and not math.isfinite(grad_norm))
        self._overflows = self._overflows + 1 if overflowed else 0
        if overflowed:
            grad_norm = None if self._overflows <= _OVERFLOWS_IN_A_ROW else math.inf
        self._look_at_first(batches)
        loss = sum_losses(batches, losses)
        seen = self._see(losses, grad_norm, loss)
        if loss is not None and math.isfinite(loss):
            self._history.append(loss)
        # The gradient is zero where every process says so: a shard of a model may have none.
        *flags, alive = agree([*(kind in seen for kind in _KINDS[:-1]), grad_norm != 0.0])
        self._zeros = 0 if alive else self._zeros + 1
        if self._zeros >= self.zero_gradient_steps:
            seen["zero-gradient"] = f"the gradient norm was 0 over {self._zeros} updates"
        kind = next((kind for kind, flag in zip(_KINDS, flags, strict=False) if flag), None)
        kind = "zero-gradient" if kind is None and "zero-gradient" in seen else kind
        if kind is None:
            if self._step % _WEIGHED_EVERY == 0:
                self._weigh()
            self._skips = 0
            return True
        words = seen.get(kind, "another process saw its batch go wrong, this one did not")
        return self._meet(kind, words, batches, losses, grad_norm, optimizer, mine=kind in seen, may_skip=may_skip)

    def _see(self, losses: Sequence[float | None], grad_norm: float | None, loss: float | None) -> dict[Kind, str]:
        """What is wrong with these numbers, in words, by kind."""
        seen: dict[Kind, str] = {}
        sick = next((value for value in losses if value is not None and not math.isfinite(value)), None)
        if sick is not None:
            seen["loss-not-finite"] = f"the loss is {sick}"
        if any(value == 0.0 for value in losses):
            seen["zero-loss"] = "the loss is exactly 0.0"
        if grad_norm is not None and not math.isfinite(grad_norm):
            seen["gradient-not-finite"] = f"the gradient norm is {grad_norm}"
        if self.spike is not None and loss is not None and math.isfinite(loss):
            jump = find_jump(loss, self._history, self.spike, self._chance)
            if jump:
                seen["loss-spike"] = jump
        return seen

    def _meet(
        self,
        kind: Kind,
        seen: str,
        batches: Sequence[MicroBatch] = (),
        losses: Sequence[float | None] = (),
        grad_norm: float | None = None,
        optimizer: Any = None,
        *,
        mine: bool = True,
        may_skip: bool = True,
    ) -> bool:
        """Look into one incident, then raise, warn or skip."""
        self.counts[kind] += 1
        blamed = name_layer(kind, losses)
        stuck = self.action == "skip" and may_skip and self._skips + 1 > _SKIPS_IN_A_ROW
        if self.counts[kind] <= _LOOKS or self.action == "raise" or stuck:
            [before] = read_numbers([self._norms[0] if self._norms else None])
            health = observe_health(self._model, optimizer, before, self._finite_before)
            micro = batches[blamed] if batches else MicroBatch()
            found = find_root_cause(kind, micro, health, self._model, self.tokenizer)
            if stuck:
                seen = f"{seen}, and {self._skips} updates before it were skipped: nothing trains any more"
            incident = Incident(kind, self._step, seen, found.cause, tuple(losses), grad_norm, blamed)
            known = {(other.kind, other.cause.code) for other in self.incidents}
            # What all processes see is written by the first; what one alone sees, by that one.
            if (kind, found.cause.code) not in known and mine and (kind in _ONE_PROCESS or get_rank() == 0):
                incident = self._write(incident, batches, found)
            self.incidents.append(incident)
            if self.action == "raise" or stuck:
                self.detach()
                raise GuardError(incident)
            if (kind, found.cause.code) not in known:
                logger.warning("%s", incident)
        if self.action == "warn" or not may_skip:
            return True
        self.skipped_updates += 1
        self._skips += 1
        return False

    def _write(self, incident: Incident, batches: Sequence[MicroBatch], found: Findings) -> Incident:
        try:
            folder = write_evidence(
                self._parent,
                incident,
                batches,
                health=found.health,
                report=found.report,
                history=self._history,
                tokenizer=self.tokenizer,
                page=draw(batches[incident.micro_batch], self.tokenizer) if batches else "",
                rank=get_rank(),
            )
        except Exception as error:  # a full disk must not hide what was seen
            remark = f"The evidence could not be written to {self._parent}: {type(error).__name__}: {error}"
            return replace(incident, remark=remark)
        return replace(incident, folder=str(folder))

    def _look_at_first(self, batches: Sequence[MicroBatch]) -> None:
        if self._looked or not batches:
            return
        self._looked = True
        if get_rank():
            return
        self.first_report = read_batch(batches[0], self.tokenizer)
        for finding in self.first_report.findings if self.first_report is not None else ():
            if finding.where == "batch" and finding.severity in ("error", "warning"):
                logger.warning("The first batch: %s", finding)


def _call(weak: weakref.WeakMethod[Any], optimizer: Any) -> None:
    judge = weak()
    if judge is not None:
        judge(optimizer)
