"""What a trainer made of what it was given: rows it dropped, weights it cast, a reference model, its loss."""

from __future__ import annotations

import dis
from collections import Counter
from types import FunctionType
from typing import TYPE_CHECKING, Any

from llama_padfix.core.hf_objects import base_model, dtype_name, read_layer, text_config
from llama_padfix.doctor.model_facts import ModelFacts
from llama_padfix.doctor.observe.copies import find_copies
from llama_padfix.doctor.observe.losses.own_loss import LIBRARIES, find_loss_without_labels, own_loss_of, try_shift
from llama_padfix.doctor.observe.losses.tool_results import find_wrong_suffix
from llama_padfix.doctor.observe.model import count_rows

if TYPE_CHECKING:
    from llama_padfix.core.types import ModelLike, TrainerLike

_TRL_COLUMNS = {"messages", "conversations", "prompt", "completion", "text"}  # of rows that TRL encodes
_FILTERING = ("SFTTrainer", "DPOTrainer", "KTOTrainer", "RewardTrainer")


def observe_parts(trainer: TrainerLike) -> dict[str, Any]:
    """Return the facts about the parts of a trainer, by the names of `TrainerFacts`."""
    return {
        "loss_from_labels": _returns_loss_of_labels(trainer),
        "trains_all_by_default": _trains_all_by_default(trainer),
        "loss_without_labels": find_loss_without_labels(trainer),
        "own_loss_shifts": try_shift(trainer) if _is_language_model(trainer.model) else None,
        "generates_from_rows": _generates_from_rows(trainer),
        "dropped": _count_dropped(trainer),
        "passes_cache_off": _is_of(trainer, "trl."),
        "trained_whole": _count_trained_whole(trainer.model),
        "copies": find_copies(trainer),
        "tool_suffix": find_wrong_suffix(trainer),
        "reference": _observe_reference(getattr(trainer, "ref_model", None)),
    }


def _is_of(value: object, *libraries: str) -> bool:
    return any(base.__module__.startswith(libraries) for base in type(value).__mro__)


def _skips(args: object) -> bool:
    """Return True if TRL was asked to take the rows as they are."""
    return bool((getattr(args, "dataset_kwargs", None) or {}).get("skip_prepare_dataset"))


def _count_dropped(trainer: TrainerLike) -> dict[str, tuple[int, int]]:
    """Return how many rows TRL was given and kept, where its last step dropped some.

    It writes a new table of encoded rows and drops some of them by `Dataset.filter`, which keeps that table and lists
    the rows that are left. Where TRL does not encode or does not filter, such a list is the user's own.
    """
    args = trainer.args
    filters = any(base.__name__ in _FILTERING for base in type(trainer).__mro__) and _is_of(trainer, "trl.")
    if (
        not filters
        or _skips(args)
        or getattr(args, "max_length", None) is None
        or getattr(trainer, "_is_vision_dataset", False)
    ):
        return {}
    evaluation = getattr(trainer, "eval_dataset", None)
    several = evaluation if isinstance(evaluation, dict) else {}
    named = {f"eval ({name})": part for name, part in several.items()} or {"eval": evaluation}
    counts = {
        name: (held.data.num_rows, len(held))
        for name, held in {"train": trainer.train_dataset, **named}.items()
        if getattr(held, "_indices", None) is not None and hasattr(getattr(held, "data", None), "num_rows")
    }
    return {name: pair for name, pair in counts.items() if pair[0] > pair[1]}


def _count_trained_whole(model: ModelLike) -> dict[str, int]:
    """Return how many trainable elements are rows or whole modules of an adapter, by dtype."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and any(part in name for part in ("trainable_tokens_delta", "modules_to_save")):
            counts[dtype_name(parameter.dtype)] += parameter.numel()
    return dict(counts)


def _observe_reference(model: object) -> ModelFacts | None:
    """Return what must agree between a reference model and the one that is trained; None without one."""
    if not hasattr(model, "config"):
        return None
    weight = getattr(read_layer(model, "get_input_embeddings"), "weight", None)
    return ModelFacts(
        embedding_rows=count_rows(weight) if weight is not None else None,
        config_pad_token_id=getattr(text_config(model.config), "pad_token_id", None),
    )


def _returns_loss_of_labels(trainer: TrainerLike) -> bool:
    """Return True if the loss is what the model's own `forward` returns for `labels`.

    That is so for a language model in transformers' Trainer or TRL's SFTTrainer, without a loss of one's own.
    """
    if own_loss_of(trainer) is not None or "labels" not in (getattr(trainer, "label_names", None) or ()):
        return False
    made_by = _class_that_defines(type(trainer), "compute_loss")
    return made_by in ("Trainer", "Seq2SeqTrainer", "SFTTrainer") and _is_language_model(trainer.model)


def _trains_all_by_default(trainer: TrainerLike) -> bool:
    """Return True for TRL's SFTTrainer with its own collator, over rows that it encoded: what is left is all trained.

    It keeps the columns that it encodes but for packs, and a stream names no columns.
    """
    args = trainer.args
    columns = getattr(trainer.train_dataset, "column_names", None)
    encoded = getattr(args, "packing", False) or columns is None or not _TRL_COLUMNS.isdisjoint(columns)
    asked = getattr(args, "assistant_only_loss", False) or getattr(args, "completion_only_loss", False)
    is_sft = any(base.__name__ == "SFTTrainer" for base in type(trainer).__mro__) and _is_of(trainer, "trl.")
    return is_sft and encoded and not asked and not _skips(args) and _is_of(trainer.data_collator, "trl.")


def _generates_from_rows(trainer: TrainerLike) -> bool:
    """Return True if evaluation generates from whole rows: `predict_with_generate`, or an own step without a cut."""
    step = getattr(trainer, "prediction_step", None)
    function = getattr(step, "__func__", step)
    if getattr(function, "__module__", "").startswith(LIBRARIES):
        is_seq2seq = any(base.__name__ == "Seq2SeqTrainer" for base in type(trainer).__mro__)
        return is_seq2seq and bool(getattr(trainer.args, "predict_with_generate", False))
    if not isinstance(function, FunctionType) or "generate" not in function.__code__.co_names:
        return False
    return not any("SLICE" in step.opname for step in dis.get_instructions(function))


def _class_that_defines(kind: type, name: str) -> str | None:
    return next((base.__name__ for base in kind.__mro__ if name in vars(base)), None)


def _is_language_model(model: ModelLike) -> bool:
    return type(base_model(model)).__name__.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
