"""What `diagnose` is given, told apart: saved, a trainer, or a tokenizer, a model and rows in any combination."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.observe.batches import preserve_state
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.doctor.observe.targets.given import observe_given, splits_of
from llama_padfix.doctor.observe.targets.observation import Beside, Observation
from llama_padfix.doctor.observe.targets.run import observe_run
from llama_padfix.doctor.observe.targets.saved import observe_saved
from llama_padfix.doctor.observe.trainer import is_trainer

_TARGETS = (
    "a Hugging Face tokenizer, a (tokenizer, model) pair, a model, a trainer, a DataLoader, rows or splits of rows, "
    "one batch, a folder or a .gguf file is needed"
)


@contextmanager
def observe_target(target: object, beside: Beside, max_rows: int | None = 1000) -> Iterator[Observation]:
    """Observe a target of any kind, with what was given beside it; what reading rows moves is put back.

    Args:
        target: what `diagnose` takes.
        beside: what was given beside it.
        max_rows: the most rows to read; None for all.

    Raises:
        PadfixError: the target is of another kind, or something beside it has no meaning there.
    """
    if beside.optimizer is not None and not hasattr(beside.optimizer, "param_groups"):
        raise PadfixError(
            f"Got a {type(beside.optimizer).__name__} as optimizer, which has no param_groups. "
            "Pass the one that the loop steps: optimizer=torch.optim.AdamW(model.parameters())"
        )
    rows = [each for value in (target, beside.dataset) for each in (splits_of(value) or {"": value}).values()]
    with preserve_state(*rows):
        observation = _observe(target, replace(beside.open_processor(), model=_unwrap(beside.model)), max_rows)
        yield replace(observation, facts=replace(observation.facts, environment=observe_environment()))


def _observe(target: Any, beside: Beside, max_rows: int | None) -> Observation:  # `Any`: told apart here
    if isinstance(target, (str, os.PathLike)):
        return observe_saved(os.fspath(target), beside, max_rows)
    if is_trainer(target):
        return observe_run(target, beside, max_rows)
    given: dict[str, Any] = {}
    for part in target if _is_pair(target) else (target,):
        kind, value = _tell_apart(part)
        if kind in given or (kind != "tokenizer" and getattr(beside, kind) is not None):
            raise PadfixError(f"Got two of a kind: a {type(part).__name__} beside another {kind}. Pass one of them.")
        given[kind] = value
        if kind == "tokenizer" and value is not part:
            given["processor"] = part
    if beside.optimizer is not None and given.get("model", beside.model) is None:
        raise PadfixError("optimizer= was given without its model. Pass both: diagnose(..., model=..., optimizer=...)")
    return observe_given(given.pop("tokenizer", None), replace(beside, **given), max_rows)


def _is_pair(target: object) -> bool:
    """Return True for a tokenizer and its model, in either order, and for anything else that is no pair of rows."""
    return isinstance(target, tuple) and len(target) == 2 and not isinstance(target[0], Mapping)


def _tell_apart(part: Any) -> tuple[str, Any]:  # `Any`: told apart here
    """Return what a part is, "tokenizer", "model" or "dataset", and the part without what is wrapped around it."""
    if hasattr(part, "get_vocab") and hasattr(part, "apply_chat_template"):
        return "tokenizer", part
    if _is_model(unwrapped := _unwrap(part)):
        return "model", unwrapped
    if (inner := getattr(part, "tokenizer", None)) is not None and hasattr(inner, "get_vocab"):
        return "tokenizer", inner  # of a processor
    if part is not None and _may_hold_rows(part):
        return "dataset", part
    raise PadfixError(
        f"Got a {type(part).__name__} where {_TARGETS}. Load a tokenizer: "
        "tokenizer = transformers.AutoTokenizer.from_pretrained(name)"
    )


def _unwrap(value: Any) -> Any:  # `Any`: a model, or anything else
    """Return the model inside of what data parallelism wraps around it; any other value as it is."""
    inner = getattr(value, "__dict__", {}).get("_modules", {}).get("module")
    return value if inner is None or hasattr(value, "config") else inner


def _is_model(value: object) -> bool:
    return hasattr(value, "config") and hasattr(value, "named_parameters")


def _may_hold_rows(value: object) -> bool:
    """Return True for what has rows or batches by number, by name or one after the other, and is read anew."""
    again = hasattr(value, "__getitem__") or (hasattr(value, "__iter__") and not hasattr(value, "__next__"))
    return again and not isinstance(value, (bytes, bytearray))
