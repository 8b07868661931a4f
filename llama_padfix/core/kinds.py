"""An argument of another kind than the function needs: what was given, and the line that gives the right one."""

from __future__ import annotations

import os
from collections.abc import Mapping

from llama_padfix.core.errors import PadfixError, describe

_LOADERS: Mapping[str, str] = {
    "tokenizer": "tokenizer = transformers.AutoTokenizer.from_pretrained({})",
    "model": "model = transformers.AutoModelForCausalLM.from_pretrained({})",
}
_NEEDED: Mapping[str, str] = {"tokenizer": "a Hugging Face tokenizer", "model": "a model"}


def refuse(value: object, needed: str) -> PadfixError:
    """Return the error for a value in the place of a tokenizer or a model.

    Args:
        value: What was given.
        needed: "tokenizer" or "model".
    """
    seen, name = f"Got a {type(value).__name__} where {_NEEDED[needed]} is needed.", "name"
    if isinstance(value, str):
        return PadfixError(f"{seen} Load it: {_LOADERS[needed].format(repr(value))}")
    if find_kind(value) is not None:
        seen = f"{seen} The order of the arguments may be another; by name: {needed}={needed}."
    return PadfixError(f"{seen} Load one: {_LOADERS[needed].format(name)}")


def find_kind(value: object) -> str | None:
    """Return what a value is: "tokenizer", "model", "dataset", or None for any other."""
    for kind, names in (
        ("tokenizer", ("convert_tokens_to_ids", "get_vocab")),
        ("model", ("named_parameters", "forward")),
        ("dataset", ("features", "column_names")),
    ):
        if all(hasattr(value, name) for name in names):
            return kind
    return None


def require_model(model: object) -> None:
    """Raise `PadfixError` for anything but a torch module."""
    if not hasattr(model, "named_modules"):
        raise refuse(model, "model")


def require_path(value: object, what: str, line: str) -> None:
    """Raise `PadfixError` for what is no path.

    Args:
        value: What was given.
        what: What is needed, such as "a folder".
        line: The line that fixes it.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise PadfixError(f"Got a {type(value).__name__} where {what} is needed. {line}")


def require_max_length(value: object) -> None:
    """Raise `PadfixError` unless a value is the most tokens of a row: an int of at least 2, or None for any."""
    if value is not None and (not isinstance(value, int) or value < 2):
        raise PadfixError(f"max_length={describe(value)}: a row needs at least 2 tokens. Pass an int, or None.")
