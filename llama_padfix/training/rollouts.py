"""Trainers that generate their own rows (GRPO, RLOO): when a smaller batch leaves those rows as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError

if TYPE_CHECKING:
    from transformers import Trainer


def require_regroupable(trainer: Trainer) -> None:
    """Raise `PadfixError` for a trainer whose generated rows a smaller batch would change.

    TRL generates the rows of some micro-batches at once and keeps them in a buffer. They can be generated anew where
    each update begins with its own, from the weights and the random state of its beginning.
    """
    if not hasattr(trainer, "_buffered_inputs"):
        return
    name, args = type(trainer).__name__, trainer.args
    every = (getattr(args, "steps_per_generation", None) or 0) * getattr(trainer, "num_iterations", 0)
    wrong = ""
    if not every:
        wrong = "keeps generated rows in a buffer that is not known here"
    elif args.gradient_accumulation_steps % every:
        wrong = (
            f"generates rows for {every} micro-batches at once, and an update has {args.gradient_accumulation_steps}: "
            "some would be made of weights that are gone. Pass steps_per_generation=None and num_iterations=1"
        )
    elif getattr(trainer, "use_vllm", False) or getattr(trainer, "rollout_func", None) is not None:
        wrong = "generates outside of torch, so that the rows of an update cannot be generated again"
    if wrong:
        raise PadfixError(
            f"{name} {wrong}. Or choose a batch that fits, and run trainer.train(): a smaller "
            "per_device_train_batch_size, and gradient_accumulation_steps that are as many times larger"
        )


def regroup(trainer: Any, growth: float) -> None:  # `Any`: the attributes of TRL's trainers
    """Make a generation as many rows as before in `growth` times as many micro-batches, and forget what was begun."""
    if not hasattr(trainer, "_buffered_inputs"):
        return
    trainer.args.steps_per_generation = round(trainer.args.steps_per_generation * growth)
    trainer._buffered_inputs, trainer._step = None, 0
    trainer._metrics["train"].clear()  # those of the update that failed would be counted twice
