"""How llama.cpp's Jinja writes values and trims texts: common/jinja/value.cpp and string.cpp of llama.cpp 0.5.0."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from llama_padfix.serving.rendering.chat import Quirk

_BLANKS = " \t\n\v\f\r"  # isspace in the C locale
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?')
_LARGEST, _SMALLEST = 2**64 - 1, -(2**63)


def write_float(value: float) -> str:
    """Return a number as a C++ stream writes a double: six digits, 1 for 1.0, 1e-07."""
    return f"{value:g}"


def show_float(value: float) -> str:
    """Return a number as std::to_string writes it, without the zeros at its end: 0.0 for 1e-07."""
    text = f"{value:f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def _write_match(found: re.Match[str]) -> str:
    text = found.group()
    if text[0] == '"' or (not any(char in text for char in ".eE") and _SMALLEST <= int(text) <= _LARGEST):
        return text
    return write_float(float(text))


def _write_numbers(environment: jinja2.Environment) -> None:
    before = environment.filters["tojson"]

    def to_json(value: object, *args: Any, **settings: Any) -> str:
        return _TOKEN.sub(_write_match, str(before(value, *args, **settings)))

    environment.filters["tojson"] = to_json


def _trim(environment: Any) -> None:  # an environment with a `StringPolicy`
    """Trim ASCII blanks alone."""
    environment.filters["trim"] = lambda value, chars=None: str(value).strip(chars or _BLANKS)
    policy, before = environment.policy, environment.policy.on_call

    def on_call(function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        held, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(held, str) and name in ("strip", "lstrip", "rstrip") and not args:
            return function, (_BLANKS,)
        return before(function, args, kwargs)

    policy.on_call = on_call


def _print(environment: jinja2.Environment) -> None:
    """Print floats with six digits behind the point, lists in its own form, and nothing for null."""
    environment.finalize = _show
    environment.filters["string"] = lambda value: write_float(value) if isinstance(value, float) else _repr(value, "")


def _show(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, float):
        return show_float(value)
    if isinstance(value, (list, tuple, dict)):
        return _repr(value)
    return value


def _repr(value: object, quote: str = "'") -> str:
    """Return a value as llama.cpp shows it in a list: texts in single quotes, or as JSON where they hold one."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if quote and quote in value else f"{quote}{value}{quote}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_repr(key)}: {_repr(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_repr, value))}]"
    return show_float(value) if isinstance(value, float) else str(value)


NUMBERS = Quirk("numbers", on_environment=_write_numbers, reads="tojson")
BLANKS = Quirk("white space", on_environment=_trim)
PRINTED = Quirk("printed values", on_environment=_print)
