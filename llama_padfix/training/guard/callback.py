"""The guard as a callback of a Trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llama_padfix.core.errors import PadfixError
from llama_padfix.training.guard.guard import Guard
from llama_padfix.training.guard.resumed import find_unloaded
from llama_padfix.training.guard.rules import Update

if TYPE_CHECKING:
    import torch
    from transformers import TrainerState, TrainingArguments

    from llama_padfix.core.types import TokenizerLike

    Numbers = Mapping[str, object] | None


class _Callback(Guard):
    """A `TrainerCallback` that stops a run before its first bad update, with the evidence and the likely cause.

    Pass it to a trainer: `Trainer(callbacks=[TrainingGuard()])`, and so for `SFTTrainer` and `build_trainer`. In a
    loop of your own use `with guard.attach(model, optimizer): ...`, or check the numbers of single updates with
    `guard.watch(loss, grad_norm)`.

    It stops at a loss or gradient norm of nan or inf, a loss of exactly 0.0, a gradient norm of 0 over some updates,
    a sudden spike of the loss, and an evaluation loss of nan or inf. `incidents` holds what it stopped at, `counts`
    the number by kind, `skipped_updates` the updates left out, `first_report` the doctor's report on the first batch.
    `docs/guard.md` has the thresholds, the causes and the files of the evidence.

    Args:
        folder: Where evidence goes. If None, "guard" in the Trainer's output folder, or in the working directory.
        action: "raise" stops with `GuardError` before the update is made; "warn" logs and goes on; "skip" leaves the
            update out (all gradients None, so that no optimizer moves anything), and stops after ten in a row.
        tokenizer: Decodes the batch; a Trainer's own if None.
        zero_gradient_steps: How many updates in a row may have a gradient norm of 0.
        spike: The robust z-score of a spike, above 3.5; None for no such rule.
        look_first: Let the doctor read the first batch; its findings are logged and stop nothing.

    Raises:
        PadfixError: A setting has another value.
    """

    # accelerate's optimizer; its `step_was_skipped` is True where a loss scaler left an update out.
    _wrapper: object = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: object,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        """Hook onto the model and the optimizer; hooks of a run that ended in an error are removed.

        Raises:
            PadfixError: A resumed run holds the weights that its model came with, and not those of its checkpoint.
        """
        if self.action == "skip" and getattr(args, "deepspeed", None):
            raise PadfixError("DeepSpeed makes its updates itself, so that none can be skipped. Pass action='raise'")
        unloaded = find_unloaded(model, args, state) if state.global_step else ""
        if unloaded and self.action != "warn":
            raise PadfixError(unloaded)
        accumulation = args.gradient_accumulation_steps * max(1, getattr(args, "n_gpu", 1))
        self.attach(model, optimizer, accumulation=accumulation)
        self._makes_updates = True
        if unloaded:
            self._tell("%s", unloaded)
        self._tell_of_narrow_adapters(model, args)
        self._parent = Path(self.folder if self.folder is not None else Path(args.output_dir) / "guard")
        if self.tokenizer is None:
            held = kwargs.get("processing_class") or kwargs.get("tokenizer")
            reader = getattr(held, "tokenizer", held)  # of a processor
            self.tokenizer = cast("TokenizerLike", reader) if hasattr(reader, "get_vocab") else None
        self._wrapper = optimizer

    def _tell_of_narrow_adapters(self, model: torch.nn.Module, args: TrainingArguments) -> None:
        """Log the trained weights that TRL casts to bfloat16 when the model is quantized, also in a float32 run."""
        quantized = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
        trained = [p for p in model.parameters() if p.requires_grad and p.element_size() < 4]
        if quantized and trained and not args.bf16:
            self._tell(
                f"{len(trained)} trained weights have 16 bits in a run without bf16=True, and small updates of them "
                "round away. Before train(): keep_trainable_float32(trainer.model, choose_precision())"
            )

    def on_train_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Remove the hooks."""
        self._wrapper = None
        self.detach()

    def on_step_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Count updates as the Trainer does."""
        self._step = state.global_step

    def on_step_end(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Check an update that no optimizer of torch made: a loss scaler left it out, or an engine made it."""
        if self._passes.batches:
            skipped = getattr(self._wrapper, "step_was_skipped", False)
            self._check_update(None, overflowed=bool(skipped), may_skip=False)

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: Numbers = None, **kwargs: object
    ) -> None:
        """Read the logged loss where the model returns none, because the Trainer or its user computes it."""
        loss = (logs or {}).get("loss")
        if self._model is not None and not self.sees_loss and isinstance(loss, (int, float)):
            self._step = state.global_step
            self._check_logged_loss(float(loss))

    def on_evaluate(
        self, args: object, state: TrainerState, control: object, metrics: Numbers = None, **kwargs: object
    ) -> None:
        """Stop at an evaluation whose loss is not finite."""
        for name, value in (metrics or {}).items():
            if name.endswith("loss") and isinstance(value, float) and not math.isfinite(value):
                self._step = state.global_step
                batch = self._passes.evaluated
                seen = Update([batch]) if batch.batch else None
                self._handle_incident("eval-loss-not-finite", f"{name} is {value}", seen, may_skip=False)


if TYPE_CHECKING:

    class TrainingGuard(_Callback):
        """At run time also a `transformers.TrainerCallback`, see `__getattr__`."""


def __getattr__(name: str) -> type[_Callback]:
    """Define `TrainingGuard` on first use (PEP 562): its base class is in transformers, which takes long to import."""
    if name != "TrainingGuard":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from transformers import TrainerCallback

    class TrainingGuard(_Callback, TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        __doc__ = _Callback.__doc__
        __qualname__ = name  # an instance is pickled by it

    globals()[name] = TrainingGuard
    return TrainingGuard
