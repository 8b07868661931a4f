"""Values of a row in the types of JSON: what Arrow, numpy and pandas made of them is undone, or refused."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_padfix.core.errors import PadfixError, describe

_DATES = (
    " (a date that a reader made of text: load_dataset('json') does. Keep the text: "
    "datasets.Dataset.from_list([json.loads(line) for line in open(path)]))"
)


class Written(dict[str, Any]):  # of any JSON
    """An object that was read from JSON text, so that each null in it was written there."""


def parse_if_json(value: object, mark: Callable[[dict[str, Any]], Any] | None = None) -> Any:  # of any JSON
    """Return what JSON text holds, each object as `mark` returns it; any other value, and any other text, as it is."""
    try:
        return json.loads(value, object_hook=mark) if isinstance(value, str) else value
    except ValueError:
        return value


def parse_written(value: object) -> Any:  # what the JSON text holds, or the value as it is
    """Return what `parse_if_json` does, with each object that holds a null as `Written`."""
    return parse_if_json(value, lambda found: Written(found) if None in found.values() else found)


def as_list(value: object) -> list[Any] | None:  # of a user's values
    """Return a list, tuple or array as a list; None for anything else."""
    if not isinstance(value, list | tuple) and hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else None


def seen(value: object) -> str:
    """Return what an error shows of a value: its type, the value, and where a date comes from."""
    date = _DATES if isinstance(value, datetime.date | datetime.time) else ""
    return f"{type(value).__name__} {describe(value)}{date}"


def strip_nulls(value: object) -> Any:  # any value of a message
    """Return a value of a message without its null keys, at any depth."""
    if isinstance(value, Mapping):
        return {key: strip_nulls(item) for key, item in value.items() if item is not None}
    value = value.tolist() if hasattr(value, "tolist") else value  # an array, or a number of numpy
    return [strip_nulls(item) for item in value] if isinstance(value, list | tuple) else value


def may_be_filled(entries: Sequence[object]) -> bool:
    """Return True if the nulls in these structs may be those that Arrow fills in.

    Arrow gives each struct of a list the same keys in the same order. Where two differ, or one was read from JSON
    text, each null was written.
    """
    first = next((entry for entry in entries if isinstance(entry, Mapping)), None)
    return first is None or all(_same_keys(first, entry) for entry in entries)


def _same_keys(one: object, other: object) -> bool:
    if isinstance(one, Written) or isinstance(other, Written):
        return False
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return True
    return list(one) == list(other) and all(_same_keys(item, other[key]) for key, item in one.items())


def read_json(value: object, where: str, *, filled: bool, dropped: list[str]) -> Any:  # in the types of JSON
    """Return a value of a tool's arguments or schema in the types of JSON, sharing nothing with it.

    Args:
        value: A value of any type.
        where: What an error calls it.
        filled: Whether null keys are left out, since Arrow may have filled them in; those of `Written` stay.
        dropped: The path of each null that was left out is added here.

    Raises:
        PadfixError: JSON does not know the value or one in it: a date, `Decimal`, bytes, a set, nan.
    """
    if isinstance(value, Mapping):
        written = isinstance(value, Written)
        found = {}
        for key, item in value.items():
            path = f"{where}.{key}"
            if item is None and filled and not written:
                dropped.append(path)
            else:
                found[key] = read_json(item, path, filled=filled and not written, dropped=dropped)
        return found
    if hasattr(value, "tolist"):  # an array, or a number of numpy
        value = value.tolist()
    if isinstance(value, list | tuple):
        items = []
        for place, item in enumerate(value):
            items.append(read_json(item, f"{where}[{place}]", filled=filled, dropped=dropped))
        return items
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise PadfixError(
        f"{where} is {seen(value)}, which JSON does not know, so the chat template would write something else for it; "
        "write it as text, as the model is to write it, or drop the row."
    )
