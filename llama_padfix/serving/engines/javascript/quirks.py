"""What @huggingface/jinja 0.5.11 renders otherwise than jinja2, each under the name of its cause.

Read in its src/runtime.ts and src/utils.ts. The engine runs the real package; these rules tell why a text differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Undefined
from jinja2.visitor import NodeTransformer

from llama_padfix.serving.rendering.chat import Chat, Quirk

_SAFE = 2**53 - 1
_BLANKS = "\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"  # what trim() of JavaScript takes
_STRIPS: Mapping[str, re.Pattern[str]] = {
    "strip": re.compile(f"^[{_BLANKS}]+|[{_BLANKS}]+$(?!\n)"),
    "lstrip": re.compile(f"^[{_BLANKS}]+"),
    "rstrip": re.compile(f"[{_BLANKS}]+$(?!\n)"),
}
_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?')
_EQUAL = "javascript equality"  # a filter that no template can name
_INDEX = re.compile(r"0|[1-9]\d{0,9}")


def write_number(value: float) -> str:
    """Return a number as JavaScript writes it: 1, 1e-7, 0.00001, 100000000000000000000, 1e+21."""
    number = float(value)
    if number == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)  # `repr` of a finite number
    text, point = "".join(map(str, digits)), len(digits) + exponent
    if 0 < point <= 21:
        text = text.ljust(point, "0")
        shown = text[:point] + (f".{text[point:]}" if text[point:] else "")
    elif -6 < point <= 0:
        shown = f"0.{'0' * -point}{text}"
    else:
        fraction = f".{text[1:]}" if text[1:] else ""
        shown = f"{text[0]}{fraction}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"{'-' * sign}{shown}"


def _round(value: Any) -> Any:  # of any JSON
    """Return a value with JavaScript's numbers: whole ones without a point, integers beyond 2**53 rounded."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        if isinstance(value, int) and abs(value) <= _SAFE:
            return value
        try:
            number = float(value)
            return int(write_number(number)) if number.is_integer() and abs(number) < 1e21 else number
        except (OverflowError, ValueError):  # infinite, or no number
            return value
    return _walk(value, _round)


def _order(value: Any) -> Any:  # of any JSON
    """Return a value whose objects begin with the keys that are array indices, the smallest first."""
    if isinstance(value, Mapping):
        indices = sorted((key for key in value if _is_index(key)), key=int)
        others = [key for key in value if not _is_index(key)]
        if list(value) != [*indices, *others]:
            value = {key: value[key] for key in (*indices, *others)}
    return _walk(value, _order)


def _is_index(key: object) -> bool:
    return isinstance(key, str) and _INDEX.fullmatch(key) is not None and int(key) < 2**32 - 1


def _walk(value: Any, change: Callable[[Any], Any]) -> Any:  # of any JSON
    """Return a list or an object with its parts changed, itself where none is."""
    if isinstance(value, Mapping):
        changed = {key: change(item) for key, item in value.items()}
        return changed if any(changed[key] is not value[key] for key in value) else value
    if isinstance(value, (list, tuple)):
        items = [change(item) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def _of_chat(change: Callable[[Any], Any], chat: Chat) -> Chat:
    messages, tools = change(chat.messages), change(chat.tools)
    return chat if messages is chat.messages and tools is chat.tools else replace(chat, messages=messages, tools=tools)


def _write_numbers(environment: jinja2.Environment) -> None:
    before = environment.filters["tojson"]

    def to_json(value: object, *args: Any, **settings: Any) -> str:
        return _NUMBER.sub(_write_match, str(before(value, *args, **settings)))

    environment.filters["tojson"] = to_json


def _write_match(found: re.Match[str]) -> str:
    text = found.group()
    return text if text[0] == '"' or not any(char in text for char in ".eE") else write_number(float(text))


def _trim(environment: jinja2.Environment) -> None:
    """Trim what JavaScript trims: not the control blanks of Python, and the byte order mark."""

    def trim(value: object, chars: str | None = None) -> str:
        return str(value).strip(chars) if chars is not None else _strip("strip", str(value))

    environment.filters["trim"] = trim
    _replace_methods(environment, lambda name, text, args: None if args else partial(_strip, name, text))


def _strip_without_argument(environment: jinja2.Environment) -> None:
    """Trim white space, whatever characters `strip` is given."""
    _replace_methods(environment, lambda name, text, args: partial(_strip, name, text) if args else None)


def _strip(name: str, text: str, *args: object) -> str:
    return _STRIPS[name].sub("", text)


_Replace = Callable[[str, str, tuple[object, ...]], "Callable[..., object] | None"]


def _replace_methods(environment: Any, choose: _Replace) -> None:  # an environment with a `StringPolicy`
    """Call what `choose` returns in the place of a text's strip, lstrip or rstrip."""
    policy, before = environment.policy, environment.policy.on_call

    def on_call(function: Any, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        held, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        chosen = choose(name, held, args) if isinstance(held, str) and name in _STRIPS else None
        return (chosen, args) if chosen is not None else before(function, args, kwargs)

    policy.on_call = on_call


def _print(environment: jinja2.Environment) -> None:
    """Print lists and objects as JSON, true and false in small letters, and nothing for null."""
    environment.finalize = _show
    environment.filters["string"] = lambda value: "None" if value is None else str(_show(value))


def _show(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, dict)):
        return _NUMBER.sub(_write_match, json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return f"{value:.1f}" if value.is_integer() and abs(value) < 1e21 else write_number(value)
    return value


def _narrow_tests(environment: jinja2.Environment) -> None:
    """Take an object for nothing to iterate over."""
    environment.tests["iterable"] = lambda value: isinstance(value, (list, tuple, str))
    environment.tests["sequence"] = lambda value: isinstance(value, (list, tuple, str, dict))


def _capitalize(environment: jinja2.Environment) -> None:
    environment.filters["capitalize"] = lambda value: str(value)[:1].upper() + str(value)[1:]


class _Comparisons(NodeTransformer):
    """Make each `==` and `!=` a filter."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:  # noqa: N802 - jinja2 finds it by this name
        self.generic_visit(node)
        if len(node.ops) != 1 or node.ops[0].op not in ("eq", "ne"):
            return node
        given = [node.ops[0].expr]
        equal = nodes.Filter(node.expr, _EQUAL, given, [], None, None, lineno=node.lineno)
        return equal if node.ops[0].op == "eq" else nodes.Not(equal, lineno=node.lineno)


class _LooseEditor:
    """Edits a template for loose comparisons, and then as the environment does."""

    def __init__(self, before: Any) -> None:  # a `TreeEditor`
        self._before = before

    def visit(self, tree: nodes.Template) -> nodes.Node:
        """Return the edited tree."""
        edited: nodes.Node = self._before.visit(_Comparisons().visit(tree))
        return edited


def _compare_loosely(environment: Any) -> None:  # an environment with a `StringPolicy`
    """Compare as == of JavaScript: "" equals false, null equals undefined, a list equals itself alone."""
    environment.filters[_EQUAL] = _is_equal
    environment.policy.editor = _LooseEditor(environment.policy.editor)


def _is_equal(left: object, right: object) -> bool:
    nothing = [value is None or isinstance(value, Undefined) for value in (left, right)]
    if any(nothing):
        return all(nothing)
    held = [isinstance(value, (list, tuple, dict)) for value in (left, right)]
    if all(held):
        return left is right
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    if any(held):  # a list as text: its items with commas between
        values = [",".join(map(str, v)) if isinstance(v, (list, tuple)) else v for v in (left, right)]
        return str(values[0]) == str(values[1]) if all(isinstance(v, str) for v in values) else False
    return _as_number(left) == _as_number(right)


def _as_number(value: object) -> float:
    if isinstance(value, str):
        try:
            return float(value.strip() or 0)
        except ValueError:
            return float("nan")
    return float(value) if isinstance(value, (bool, int, float)) else float("nan")


QUIRKS = (
    Quirk("numbers", partial(_of_chat, _round), _write_numbers, reads="tojson"),
    Quirk("key order", partial(_of_chat, _order)),
    Quirk("white space", on_environment=_trim),
    Quirk("white space", on_environment=_strip_without_argument, reads="strip("),
    Quirk("printed values", on_environment=_print),
    Quirk("content parts", on_environment=_narrow_tests, reads="iterable"),
    Quirk("printed values", on_environment=_capitalize, reads="capitalize"),
    Quirk("comparisons", on_environment=_compare_loosely, reads="="),
)
"""In the order in which they apply."""
