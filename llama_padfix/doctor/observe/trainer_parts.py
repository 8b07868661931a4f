"""What a trainer made of what it was given: rows it dropped, weights it cast, a reference model, its loss."""

from __future__ import annotations

import dis
import inspect
from collections import Counter
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from llama_padfix.core.hf_objects import base_model, dtype_name, read_layer, text_config
from llama_padfix.doctor.model_facts import ModelFacts
from llama_padfix.doctor.observe.copies import find_copies
from llama_padfix.doctor.observe.model import count_rows

if TYPE_CHECKING:
    from llama_padfix.core.types import ModelLike, TrainerLike

_LIBRARIES = ("transformers.", "trl.")
# By which code may come to the labels: their name, the model's own loss (the first of its outputs), the library's.
_READS = frozenset({"labels", "loss", 0, "compute_loss", "super"})
_CONSTANTS = ("LOAD_CONST", "LOAD_SMALL_INT")
_MOST_FUNCTIONS = 50
_FILTERING = ("SFTTrainer", "DPOTrainer", "KTOTrainer", "RewardTrainer")


def observe_parts(trainer: TrainerLike) -> dict[str, Any]:
    """Return the facts about the parts of a trainer, by the names of `TrainerFacts`."""
    return {
        "loss_from_labels": _returns_loss_of_labels(trainer),
        "loss_without_labels": _find_loss_without_labels(trainer),
        "generates_from_rows": _generates_from_rows(trainer),
        "dropped": _count_dropped(trainer),
        "passes_cache_off": _is_of(trainer, "trl."),
        "trained_whole": _count_trained_whole(trainer.model),
        "copies": find_copies(trainer),
        "reference": _observe_reference(getattr(trainer, "ref_model", None)),
    }


def _is_of(value: object, *libraries: str) -> bool:
    return any(base.__module__.startswith(libraries) for base in type(value).__mro__)


def _count_dropped(trainer: TrainerLike) -> dict[str, tuple[int, int]]:
    """Return how many rows TRL was given and kept, where its last step dropped some.

    It writes a new table of encoded rows and drops some of them by `Dataset.filter`, which keeps that table and lists
    the rows that are left. Where TRL does not encode or does not filter, such a list is the user's own.
    """
    args = trainer.args
    skips = (getattr(args, "dataset_kwargs", None) or {}).get("skip_prepare_dataset", False)
    filters = any(base.__name__ in _FILTERING for base in type(trainer).__mro__) and _is_of(trainer, "trl.")
    if (
        not filters
        or skips
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
    if _own_loss(trainer) is not None or "labels" not in (getattr(trainer, "label_names", None) or ()):
        return False
    made_by = _class_that_defines(type(trainer), "compute_loss")
    return made_by in ("Trainer", "Seq2SeqTrainer", "SFTTrainer") and _is_language_model(trainer.model)


def _find_loss_without_labels(trainer: TrainerLike) -> str | None:
    """Return the name of an own loss that cannot read the labels; None where it may, or where there is none.

    A function given as `compute_loss_func` gets the labels as its second argument: it must use it. Of a `compute_loss`
    only that can be told which takes its targets from `input_ids`, names no labels and lets nothing else compute.
    """
    own = _own_loss(trainer)
    function = own.__func__ if isinstance(own, MethodType) else own
    if not isinstance(function, FunctionType):
        return None
    if own is getattr(trainer, "compute_loss_func", None):
        names = list(inspect.signature(function).parameters)[int(isinstance(own, MethodType)) :]
        return None if len(names) < 2 or _uses(function.__code__, names[1]) else function.__qualname__
    return function.__qualname__ if _computes_on_ids_alone(function) else None


def _generates_from_rows(trainer: TrainerLike) -> bool:
    """Return True if evaluation generates from whole rows: `predict_with_generate`, or an own step without a cut."""
    step = getattr(trainer, "prediction_step", None)
    function = getattr(step, "__func__", step)
    if getattr(function, "__module__", "").startswith(_LIBRARIES):
        is_seq2seq = any(base.__name__ == "Seq2SeqTrainer" for base in type(trainer).__mro__)
        return is_seq2seq and bool(getattr(trainer.args, "predict_with_generate", False))
    if not isinstance(function, FunctionType) or "generate" not in function.__code__.co_names:
        return False
    return not any("SLICE" in step.opname for step in dis.get_instructions(function))


def _own_loss(trainer: TrainerLike) -> object:
    """Return the function of a loss that is not a library's, None where the library computes it."""
    given = getattr(trainer, "compute_loss_func", None)
    if given is not None:
        return None if getattr(given, "__module__", "").startswith(_LIBRARIES) else given
    compute = getattr(trainer, "compute_loss", None)
    return None if getattr(compute, "__module__", "").startswith(_LIBRARIES) else compute


def _class_that_defines(kind: type, name: str) -> str | None:
    return next((base.__name__ for base in kind.__mro__ if name in vars(base)), None)


def _is_language_model(model: ModelLike) -> bool:
    return type(base_model(model)).__name__.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _uses(code: CodeType, variable: str) -> bool:
    """Return True if a function, or one inside it, reads a variable."""
    loads = ("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE", "LOAD_CLASSDEREF", "LOAD_NAME")
    return any(
        step.opname.startswith(loads)
        and variable in (step.argval if isinstance(step.argval, tuple) else (step.argval,))
        for each in _codes(code)
        for step in dis.get_instructions(each)
    )


def _computes_on_ids_alone(function: FunctionType) -> bool:
    """Return True if code takes its targets from the ids: neither it nor what it calls can come to the labels."""
    waiting, seen, words = [function], set[FunctionType](), set[object]()
    while waiting:
        function = waiting.pop()
        seen.add(function)
        for code in _codes(function.__code__):
            words.update(code.co_names, code.co_freevars)
            words.update(
                step.argval
                for step in dis.get_instructions(code)
                if step.opname in _CONSTANTS and isinstance(step.argval, (str, int))
            )
            called = [function.__globals__.get(name) for name in code.co_names]
            waiting += [each for each in called if isinstance(each, FunctionType) and each not in seen]
    return "input_ids" in words and not words & _READS and len(seen) < _MOST_FUNCTIONS
