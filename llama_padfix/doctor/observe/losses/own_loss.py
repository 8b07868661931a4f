"""A loss of the user's own: whether it reads the labels, by its code, and whether it shifts them, by a trial."""

from __future__ import annotations

import contextlib
import dis
import inspect
import io
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.core.hf_objects import text_config

if TYPE_CHECKING:
    from llama_padfix.core.types import TrainerLike

LIBRARIES = ("transformers.", "trl.")
"""The modules whose losses are not the user's own, by their beginnings."""

# By which code may come to the labels: their name, the model's own loss (the first of its outputs), the library's.
_READS = frozenset({"labels", "loss", 0, "compute_loss", "super"})
_CONSTANTS = ("LOAD_CONST", "LOAD_SMALL_INT")
_MOST_FUNCTIONS = 50
# What code that does more than compute calls: it is not tried.
_ACTS = {
    *(
        "log",
        "log_metrics",
        "wandb",
        "mlflow",
        "open",
        "write",
        "save",
        "dump",
        "put",
        "send",
        "post",
        "sleep",
        "input",
    ),
    *("backward", "step", "generate", "gather", "all_gather", "all_reduce", "barrier", "gather_for_metrics", "exec"),
}
_TRIED = ("Trainer", "Seq2SeqTrainer", "SFTTrainer")  # whose batches are input_ids with labels
_SURE, _HEIGHT = 0.05, 30.0


def own_loss_of(trainer: TrainerLike) -> object:
    """Return the function of a loss that is not a library's, None where the library computes it."""
    given = getattr(trainer, "compute_loss_func", None)
    if given is not None:
        return None if getattr(given, "__module__", "").startswith(LIBRARIES) else given
    compute = getattr(trainer, "compute_loss", None)
    return None if getattr(compute, "__module__", "").startswith(LIBRARIES) else compute


def find_loss_without_labels(trainer: TrainerLike) -> str | None:
    """Return the name of an own loss that cannot read the labels; None where it may, or where there is none.

    A function given as `compute_loss_func` gets the labels as its second argument: it must use it. Of a `compute_loss`
    only that can be told which takes its targets from `input_ids`, names no labels and lets nothing else compute.
    """
    own = own_loss_of(trainer)
    function = own.__func__ if isinstance(own, MethodType) else own
    if not isinstance(function, FunctionType):
        return None
    if own is getattr(trainer, "compute_loss_func", None):
        names = list(inspect.signature(function).parameters)[int(isinstance(own, MethodType)) :]
        return None if len(names) < 2 or _uses(function.__code__, names[1]) else function.__qualname__
    return function.__qualname__ if _computes_on_ids_alone(function) else None


def try_shift(trainer: TrainerLike) -> bool | None:
    """Return whether an own loss compares the logits of a place with the label of the next; None where not known.

    It is called with a stand-in for the model, whose logits predict either each next token or each token itself: one
    of the two losses must be next to nothing. What logs, writes, generates or talks to other processes is not called.
    """
    own: Any = own_loss_of(trainer)
    function = own.__func__ if isinstance(own, MethodType) else own
    kinds = [kind for kind in type(trainer).__mro__ if kind.__module__.startswith(LIBRARIES)]
    rows = getattr(text_config(trainer.model.config), "vocab_size", None)
    if not isinstance(function, FunctionType) or not kinds or kinds[0].__name__ not in _TRIED:
        return None
    if not isinstance(rows, int) or rows < 64 or not _ACTS.isdisjoint(_words(function)[0]):
        return None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            of_next, of_same = (_try(trainer, own, rows, shift) for shift in (1, 0))
    except Exception:  # it needs more than a stand-in has
        return None
    if of_next < _SURE * of_same:
        return True
    return False if of_same < _SURE * of_next else None


def _try(trainer: TrainerLike, own: Any, rows: int, shift: int) -> float:  # a function of the user's own
    """Return the loss of logits that predict the token `shift` places on."""
    import torch
    from transformers.modeling_outputs import CausalLMOutputWithPast

    length = 12
    ids = torch.arange(length)[None] * 3 + rows // 2 - 20
    labels = ids.clone()
    labels[:, :4] = IGNORE_INDEX
    logits = torch.zeros(1, length, rows)
    logits[0, torch.arange(length - shift), ids[0, shift:]] = _HEIGHT

    class StandIn(torch.nn.Module):
        config = trainer.model.config

        def forward(self, labels: Any = None, **_: Any) -> Any:  # as a model
            cross_entropy = torch.nn.functional.cross_entropy
            loss = None if labels is None else cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORE_INDEX)
            return CausalLMOutputWithPast(loss=loss, logits=logits.clone())

    with torch.random.fork_rng(devices=[]):
        if getattr(trainer, "compute_loss_func", None) is not None:  # it goes before the method
            loss = own(CausalLMOutputWithPast(logits=logits), labels, num_items_in_batch=length - 4)
        else:
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
            loss = own(StandIn(), inputs)
    return float(loss)


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
    words, count = _words(function)
    return "input_ids" in words and not words & _READS and count < _MOST_FUNCTIONS


def _words(function: FunctionType) -> tuple[set[object], int]:
    """Return the names and constants in code and in the functions that it calls, and how many functions these are."""
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
    return words, len(seen)
