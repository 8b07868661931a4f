"""Parts that a trainer holds besides its model and data: its loss."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_padfix.core.types import ModelLike, TrainerLike

_LIBRARIES = ("transformers.", "trl.")
# By which code may come to the labels: their name, the model's own loss (the first of its outputs), the library's.
_READS = frozenset({"labels", "loss", 0, "compute_loss", "super"})
_CONSTANTS = ("LOAD_CONST", "LOAD_SMALL_INT")
_MOST_FUNCTIONS = 50


def returns_loss_of_labels(trainer: TrainerLike) -> bool:
    """Return True if the loss is what the model's own `forward` returns for `labels`.

    That is so for a language model in transformers' Trainer or TRL's SFTTrainer, without a loss of one's own.
    """
    if _own_loss(trainer) is not None or "labels" not in (getattr(trainer, "label_names", None) or ()):
        return False
    made_by = _class_that_defines(type(trainer), "compute_loss")
    return made_by in ("Trainer", "Seq2SeqTrainer", "SFTTrainer") and _is_language_model(trainer.model)


def find_loss_without_labels(trainer: TrainerLike) -> str | None:
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
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(base).__name__.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))


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
