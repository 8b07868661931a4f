"""Stops a run at the first sick update, keeps the evidence, and names the most likely cause."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.training.guard.guard import Guard

__all__ = []


class _Callback(Guard):
    """A `TrainerCallback` that stops a run at its first sick update, keeps the evidence, and names the likely cause.

    `Trainer(callbacks=[TrainingGuard()])` is all; so for `SFTTrainer` and `build_trainer`. In a loop of your own
    `with guard.attach(model, optimizer): ...` needs nothing else, and `guard.watch(loss, grad_norm)` judges the
    numbers of one update that you give it.

    `folder` is where evidence goes: "guard" in the Trainer's output folder, or in the working directory, when None.
    `action`: "raise" stops with `GuardError` before the update is made; "warn" logs and goes on; "skip" leaves the
    update out (all gradients None, so that no optimizer moves anything), and stops after ten in a row.
    `tokenizer` decodes the batch (a Trainer's own when None). `zero_gradient_steps` is how many updates in a row may
    have a gradient norm of 0. `spike` is the robust z-score of a spike, None for no such rule. `look_first` has the
    doctor read the first batch; what it finds is logged and stops nothing. Raises `PadfixError` for other settings.

    Stops at a loss or gradient norm of nan or inf, a loss of exactly 0.0, a gradient norm of 0 over some updates, a
    sudden spike of the loss, and an evaluation loss of nan or inf. What was seen is in `incidents`, and counted in
    `counts` and `skipped_updates`. `docs/guard.md` has the thresholds, the causes and the files of the evidence.
    """

    _wrapper: Any = None  # accelerate's optimizer, which knows whether a loss scaler left an update out

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hook onto the model and the optimizer; hooks of a run that ended in an error come off."""
        if self.action == "skip" and getattr(args, "deepspeed", None):
            raise PadfixError("DeepSpeed makes its updates itself, so that none can be skipped. Pass action='raise'")
        accumulation = args.gradient_accumulation_steps * max(1, getattr(args, "n_gpu", 1))
        self.attach(kwargs.get("model"), kwargs.get("optimizer"), accumulation=accumulation)
        self._parent = Path(self.folder if self.folder is not None else Path(args.output_dir) / "guard")
        if self.tokenizer is None:
            reader = kwargs.get("processing_class") or kwargs.get("tokenizer")
            reader = getattr(reader, "tokenizer", reader)  # of a processor
            self.tokenizer = reader if hasattr(reader, "get_vocab") else None
        self._wrapper = kwargs.get("optimizer")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the hooks off."""
        self._wrapper = None
        self.detach()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count updates as the Trainer does."""
        self._step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge an update that no optimizer of torch made: a loss scaler left it out, or an engine made it."""
        if self._pending:
            skipped = getattr(self._wrapper, "step_was_skipped", False)
            self._judge(None, overflowed=bool(skipped), may_skip=False)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Read the logged loss where the model returns none, because the Trainer or its user computes it."""
        loss = (logs or {}).get("loss")
        if self._model is not None and not self.sees_loss and isinstance(loss, (int, float)):
            self._step = state.global_step
            self.judge_log(float(loss))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Stop at an evaluation whose loss is not finite."""
        for name, value in (metrics or {}).items():
            if name.endswith("loss") and isinstance(value, float) and not math.isfinite(value):
                self._step = state.global_step
                self._meet("eval-loss-not-finite", f"{name} is {value}", may_skip=False)


if TYPE_CHECKING:

    class TrainingGuard(_Callback):
        """See `_Callback`: at run time it is a `transformers.TrainerCallback` too."""


def __getattr__(name: str) -> Any:
    if name != "TrainingGuard":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Here, since importing this module must not import transformers.
    from transformers import TrainerCallback

    members = {"__module__": __name__, "__doc__": _Callback.__doc__, "__qualname__": name}
    made = type(name, (_Callback, TrainerCallback), members)
    globals()[name] = made
    return made
