"""The right keyword for the installed versions, and a trainer that is ready to train."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from llama_padfix.records import PadfixError, Precision

__all__ = ["name_tokenizer_argument", "sft_arguments_for", "trainer_arguments_for"]


def trainer_arguments_for(precision: Precision) -> dict[str, Any]:
    """Return the keywords of `transformers.TrainingArguments` that make a run safe.

    The precision and its gradient clipping; a nan loss is logged as nan and not as 0.0
    (`logging_nan_inf_filter`); and the label column is named, which a PEFT model hides from the Trainer's own
    look-up, so that its evaluation reports no loss.
    """
    return {
        "bf16": precision.bf16,
        "fp16": precision.fp16,
        "max_grad_norm": precision.max_grad_norm,
        "logging_nan_inf_filter": False,
        "label_names": ["labels"],
    }


def sft_arguments_for(precision: Precision) -> dict[str, Any]:
    """Return the keywords of TRL's `SFTConfig`: those of the Trainer, and that the rows are encoded already.

    Without the latter TRL cuts encoded rows at its own `max_length` (1,024 by default) in mid-answer.
    """
    return {**trainer_arguments_for(precision), "dataset_kwargs": {"skip_prepare_dataset": True}}


def name_tokenizer_argument(trainer_class: Callable[..., Any]) -> str:
    """Return what this trainer class calls its tokenizer: `processing_class`, or `tokenizer` in older versions."""
    parameters = inspect.signature(trainer_class).parameters
    return "processing_class" if "processing_class" in parameters else "tokenizer"


def split_sft_arguments(
    arguments: Mapping[str, Any], known_elsewhere: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keywords into those of `SFTConfig` and those of `SFTTrainer`, by the installed signatures.

    Raises `PadfixError` for a keyword that neither knows; `known_elsewhere` are accepted too, to be named there.
    """
    import difflib

    trl = import_trl()
    config_names = set(inspect.signature(trl.SFTConfig).parameters)
    trainer_names = set(inspect.signature(trl.SFTTrainer).parameters) - {"model", "args", "train_dataset"}
    unknown = [name for name in arguments if name not in config_names | trainer_names]
    if unknown:
        every = sorted(config_names | trainer_names | set(known_elsewhere))
        close = difflib.get_close_matches(unknown[0], every, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "See the fields of trl.SFTConfig."
        raise PadfixError(
            f"{unknown[0]}= is known neither to SFTConfig nor to SFTTrainer of TRL {trl.__version__}. {hint}"
        )
    of_trainer = {name: value for name, value in arguments.items() if name in trainer_names}
    of_config = {name: value for name, value in arguments.items() if name not in trainer_names}
    return of_config, of_trainer


def import_trl() -> Any:
    """Return the package trl, or raise `PadfixError` with the line that installs it."""
    try:
        import trl
    except ImportError as error:
        raise PadfixError("This needs TRL. Run: pip install 'llama-padfix[train]'") from error
    return trl
