"""The right keyword for the installed versions, and a trainer that is ready to train."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from llama_padfix.core.compat import (
    averages_by_tokens,
    make_checkpointing_arguments,
    rename_arguments,
    takes_hidden_states,
)
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.version import import_package
from llama_padfix.hardware.precision import Precision

if TYPE_CHECKING:
    from types import ModuleType

    from transformers import TrainingArguments

_Config = TypeVar("_Config")

# TRL would drop these in silence, or break on them: it gets rows that are encoded already.
_DONE_BEFORE_TRL = {
    "args": "Pass the fields of SFTConfig as keywords: learning_rate=..., output_dir=...",
    "processing_class": "Pass the tokenizer as the second argument",
    "max_seq_length": "Pass max_length=..., whatever the installed TRL calls it",
    "truncation_mode": "Pass truncation='turns' or 'tokens'",
    "assistant_only_loss": "Leave it out: train_on='assistant' is the default",
    "completion_only_loss": "Leave it out: the prompt of a prompt/completion row is never trained",
    "dataset_kwargs": "Leave it out: the rows are encoded before TRL sees them",
    "dataset_text_field": "Rename the column: dataset.rename_column(name, 'text')",
    "formatting_func": "Write the rows out first: dataset.map(lambda row: {'messages': ...})",
    "chat_template_path": "Set it first: tokenizer.chat_template = Path(...).read_text()",
    "eos_token": "Leave it out: it is found from the chat template; else set tokenizer.eos_token first",
    "eval_packing": "Pass packing=True: rows to evaluate on are packed too",
    "padding_free": "Pass packing=True, max_length=...: batches of packed rows hold hardly any padding",
}


def trainer_arguments_for(precision: Precision) -> dict[str, object]:
    """Return the keywords of `transformers.TrainingArguments` that make a run safe.

    The precision and its gradient clipping; a nan loss is logged as nan and not as 0.0
    (`logging_nan_inf_filter`); and the label column is named, which a PEFT model hides from the Trainer's own
    look-up, so that its evaluation reports no loss. Checkpointing, where it is switched on, is the non-reentrant
    kind: the other one, the default of transformers 4, fails under DDP and trains nothing behind frozen inputs.
    """
    return {
        "bf16": precision.bf16,
        "fp16": precision.fp16,
        "max_grad_norm": precision.max_grad_norm,
        "logging_nan_inf_filter": False,
        "label_names": ["labels"],
        **make_checkpointing_arguments(),
    }


def sft_arguments_for(precision: Precision) -> dict[str, object]:
    """Return the keywords of TRL's `SFTConfig`: those of the Trainer, and that the rows are encoded already.

    Without the latter TRL cuts encoded rows at its own `max_length` (1,024 by default) in mid-answer.
    """
    return {**trainer_arguments_for(precision), "dataset_kwargs": {"skip_prepare_dataset": True}}


def split_arguments(
    arguments: Mapping[str, object], trainer_class: type, config_class: type, known_elsewhere: Iterable[str] = ()
) -> tuple[dict[str, object], dict[str, object]]:
    """Split keywords into those of a trainer's config and those of the trainer, by the installed signatures.

    Names of other versions of transformers are replaced (`rename_arguments`).

    Raises:
        PadfixError: Neither knows a keyword (the message has the nearest names, `known_elsewhere` among them), or it
            acts on raw rows and is not switched off (None or False).
    """
    import difflib

    taken = {"model", "train_dataset", *_DONE_BEFORE_TRL}
    config_names = set(inspect.signature(config_class).parameters)
    trainer_names = set(inspect.signature(trainer_class).parameters) - taken
    of_config: dict[str, object] = {}
    of_trainer: dict[str, object] = {}
    for name, value in rename_arguments(arguments, config_class).items():
        if name in _DONE_BEFORE_TRL:
            if value is not None and value is not False:
                raise PadfixError(f"build_trainer does itself what {name}= is for. {_DONE_BEFORE_TRL[name]}.")
        elif name in trainer_names:
            of_trainer[name] = value
        elif name in config_names:
            of_config[name] = value
        else:
            every = sorted({*config_names, *trainer_names, *known_elsewhere} - taken)
            close = difflib.get_close_matches(name, every, n=3)
            fields = f"See the fields of trl.{config_class.__name__}."
            hint = f"Did you mean {' or '.join(close)}?" if close else fields
            raise PadfixError(
                f"{name}= is known neither to {config_class.__name__} nor to {trainer_class.__name__} of TRL "
                f"{import_trl().__version__}. {hint}"
            )
    return of_config, of_trainer


def require_accumulation(args: TrainingArguments) -> None:
    """Raise `PadfixError` where accumulated batches would be averaged one by one (transformers before 4.46)."""
    steps = args.gradient_accumulation_steps
    if steps > 1 and not averages_by_tokens():
        raise PadfixError(
            f"gradient_accumulation_steps={steps}: the installed transformers averages each accumulated batch for "
            "itself, so that rows with few trained tokens count for more than in one large batch. Run: "
            "pip install -U 'transformers>=4.46', or pass gradient_accumulation_steps=1 and a larger batch"
        )


def require_base_model(model: object) -> None:
    """Raise `PadfixError` for a model of which TRL cannot take the hidden states.

    From TRL 1.16 on its SFTTrainer computes the loss from `model.base_model`, which is the model itself where it keeps
    its decoder under another name.
    """
    if takes_hidden_states() and getattr(model, "base_model", None) is model:
        name = type(model).__name__
        raise PadfixError(
            f"{name} has no base model of its own, from which the installed TRL's SFTTrainer takes hidden states, so "
            "its first step fails. Use transformers.Trainer(model, TrainingArguments(**prepared.trainer_args), "
            "train_dataset=prepared.encode(rows), data_collator=prepared.collator, processing_class=processor)"
        )


def make_config(arguments: Mapping[str, object], config_class: Callable[..., _Config]) -> _Config:
    """Return `config_class(**arguments)`, or raise what it raises: `PadfixError` for bf16 without a GPU that has it.

    transformers refuses that from 4.55 on, unless `use_cpu=True`.
    """
    try:
        return config_class(**arguments)
    except ValueError as error:
        if "bf16/gpu" not in str(error):
            raise
        raise PadfixError(
            f"bf16=True, and transformers finds no GPU for it ({error}). Leave bf16 out, and the precision is chosen "
            "for the device; or pass use_cpu=True to train in bfloat16 on the CPU"
        ) from error


def apply_arguments(
    args: TrainingArguments, wanted: Mapping[str, object], *, packs: bool, max_length: int | None
) -> None:
    """Set keywords on a config in place, and run its own checks again.

    Args:
        args: The config.
        wanted: Its fields, by name.
        packs: Whether rows are packed before the trainer sees them.
        max_length: Tokens of a row.

    Raises:
        PadfixError: The config asks for packing, and rows are not packed.
        Exception: What the checks of the config raise; it is then as it was.
    """
    packing = [name for name in ("packing", "eval_packing", "padding_free") if getattr(args, name, None)]
    if packing and not packs:
        raise PadfixError(
            f"{packing[0]}=True is in the config, and prepare pads rows. Pass "
            f"prepare(tokenizer, model, packing=True, max_length={max_length or getattr(args, 'max_length', 1024)})"
        )
    before = dict(vars(args))
    try:
        for name, value in {**wanted, **dict.fromkeys(packing, False)}.items():
            setattr(args, name, value)
        type(args).__post_init__(args)
    except BaseException:
        vars(args).clear()
        vars(args).update(before)
        raise


def import_trl() -> ModuleType:
    """Return the package trl, or raise `PadfixError` with the line that installs it."""
    return import_package("trl", 'This needs TRL. Run: pip install "llama-padfix[train]"')
