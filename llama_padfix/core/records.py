"""Records as text: a `repr` of one short line, whatever they hold, and values that JSON knows."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

_LONGEST = 160
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 48
_SHORT.maxtuple = _SHORT.maxlist = 3
_SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 2
_SHORT.maxlevel = 2


def short_repr(record: Any) -> str:  # any dataclass
    """Return a record as one short line: the fields that are not at their default, long values cut.

    It is assigned in the class: `__repr__ = short_repr`.
    """
    shown = [f"{name}={_SHORT.repr(value)}" for name, value in list_fields(record)]
    text = f"{type(record).__name__}({', '.join(shown)})"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]}...)"


def list_fields(record: Any) -> Iterator[tuple[str, object]]:  # any dataclass
    """Yield the fields that a `repr` shows and that are not at their default."""
    for field in fields(record):
        value = getattr(record, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.repr and (default is MISSING or not _is_same(value, default)):
            yield field.name, value


def _is_same(value: object, default: object) -> bool:
    try:
        return type(value) is type(default) and bool(value == default)
    except Exception:  # arrays, and what compares by other rules
        return False


def describe_record(record: Any) -> JsonObject:  # any dataclass
    """Return a record as a dict of what JSON knows, with every field."""
    return {item.name: as_json(getattr(record, item.name)) for item in fields(record)}


def as_json(value: object) -> object:
    """Return a record as a dict of what its `repr` shows, a sequence as a list, what JSON does not know as `repr`."""
    if is_dataclass(value):
        return {item.name: as_json(getattr(value, item.name)) for item in fields(value) if item.repr}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    known = value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    return value if known else repr(value)
