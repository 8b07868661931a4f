"""Records as text: a `repr` of one short line, a table for a notebook, and values that JSON knows."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.core.html import escape, html_block

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

_LONGEST = 160
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 48
_SHORT.maxtuple = _SHORT.maxlist = 3
_SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 2
_SHORT.maxlevel = 2
_LINES = 8  # of a sequence or a mapping in a table
_LONG = reprlib.Repr()
_LONG.maxstring = _LONG.maxother = 400
_LONG.maxlist = _LONG.maxtuple = _LONG.maxdict = 16


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


def record_html(record: Any) -> str:  # any dataclass
    """Return a record as a table of the fields that are not at their default.

    It is assigned in the class, beside `__repr__ = short_repr`: `_repr_html_ = record_html`.
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{_text(value)}</td></tr>" for name, value in list_fields(record))
    return html_block(f"<table><caption>{escape(type(record).__name__)}</caption><tbody>{rows}</tbody></table>")


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


def _text(value: object) -> str:
    """Return a value in lines: those of a sequence or mapping, as far as they are few."""
    if isinstance(value, str):
        return "<br>".join(escape(line) for line in value.split("\n"))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        lines = [f"{key}: {_LONG.repr(item)}" for key, item in value.items()]
    elif isinstance(value, (tuple, list)) and not all(isinstance(item, int) for item in value):
        lines = [item if isinstance(item, str) else _LONG.repr(item) for item in value]
    else:
        lines = [_LONG.repr(value)]
    more = [f"and {len(lines) - _LINES} more"] * (len(lines) > _LINES)
    return "<br>".join(map(escape, lines[:_LINES] + more))
