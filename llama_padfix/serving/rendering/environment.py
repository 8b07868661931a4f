"""The jinja2 of transformers within limits: a template of a stranger ends, and fills no memory.

jinja2's sandbox lets a template loop over a loop and double a text for ever. Here each pass of a loop and each call of
a macro is counted, and a text that grows beyond a size is refused before it is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import Environment, nodes, pass_environment
from jinja2.filters import do_sum
from jinja2.runtime import Context

from llama_padfix.chat.jinja_environment import ChatEnvironment, Effect, StringPolicy, TreeEditor

MOST_STEPS = 200_000
"""Passes of loops and calls of macros in one rendering."""

LONGEST = 20_000_000
"""Characters of a text that a template makes."""

MOST_ITEMS = 1_000_000
"""Items of a list that a template makes."""

_STEP = "_padfix_step"  # also a name in compiled code
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "indent"})
_BOUNDED = _PADDING | {"replace", "format", "format_map", "wordwrap"}
_COUNTED = frozenset({"batch", "slice", "tojson"})  # filters of any value, with a number of items or blanks
_FIELD = re.compile(r"\{[^{}]*:([^{}]*)\}")
_OLD_FIELD = re.compile(r"%(?:\([^)]*\))?([^a-zA-Z%]*)")
_NESTED_FIELD = re.compile(r"\{[^{}]*:[^{}]*\{")


class LimitExceededError(Exception):
    """A template does more than any chat template needs."""


class _Counter(TreeEditor):
    """Count each pass of a loop and each call of a macro."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2 finds it by this name
        return self._count(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._count(node)

    def _count(self, node: nodes.For | nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        name = nodes.Name(_STEP, "load", lineno=node.lineno)
        call = nodes.Call(name, [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
        return node


class _Bounded(StringPolicy):
    """Strings are plain, and none grows beyond `LONGEST`."""

    editor = _Counter()

    def on_join(self, pieces: Iterable[object]) -> str:
        texts = [*map(str, pieces)]
        _require(sum(map(len, texts)))
        return "".join(texts)

    def on_call(
        self, function: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Callable[..., object], tuple[object, ...]]:
        held = getattr(function, "__self__", None)
        if isinstance(held, str):
            _require_small(getattr(function, "__name__", ""), held, args)
        return function, args

    def on_format(self, string: str, name: str, function: Callable[..., str]) -> Callable[..., str]:
        def bounded(*args: object, **kwargs: object) -> str:
            _require_small(name, string, (*args, *kwargs.values()))
            return function(*args, **kwargs)

        return bounded

    def on_filter(self, name: str, effect: Effect, function: Callable[..., object]) -> Callable[..., object]:
        if name == "sum":
            return _flatten
        if name not in _BOUNDED | _COUNTED:
            return function
        places = 1 if not hasattr(function, "jinja_pass_arg") else 2

        def bounded(*args: object, **kwargs: object) -> object:
            given = (*args[places:], *kwargs.values())
            if name in _COUNTED:
                _require(max((value for value in given if isinstance(value, int)), default=0), MOST_ITEMS)
            else:
                _require_small(name, str(args[places - 1] if len(args) >= places else ""), given)
            return function(*args, **kwargs)

        bounded.__dict__.update(getattr(function, "__dict__", {}))
        return bounded


def _require(length: int, limit: int = LONGEST) -> None:
    if length > limit:
        raise LimitExceededError(f"it makes a value of more than {limit:,} characters or items")


# `Any`: whatever a template adds up.
@pass_environment
def _flatten(environment: Environment, values: Any, attribute: Any = None, start: Any = 0) -> Any:
    """Add up as the filter `sum` does; lists one behind the other, which `+` copies again each time."""
    if not isinstance(start, (list, tuple)):
        return do_sum(environment, values, attribute, start)
    items = list(start)
    for value in values:
        items += environment.getitem(value, attribute) if attribute is not None else value
        _require(len(items), MOST_ITEMS)
    return items


def _require_small(name: str, text: str, args: Iterable[object]) -> None:
    """Raise before a method or filter of a text makes a huge one."""
    given = list(args)
    if name in _PADDING:
        widths = [value for value in given if isinstance(value, int)]
        _require(max(widths, default=0) * (text.count("\t") + text.count("\n") + 1 if name[0] in "ei" else 1))
    elif name in ("format", "format_map"):
        held = re.findall(r"\d+", " ".join(_FIELD.findall(text)))
        held += [str(value) for value in given] if _NESTED_FIELD.search(text) else []
        _require(10 ** max(map(len, held), default=0))
    elif name == "wordwrap":
        _require(len(text) * max((len(value) for value in given if isinstance(value, str)), default=1))
    elif name == "replace" and len(given) > 1:
        old, new = str(given[0]), str(given[1])
        _require((text.count(old) if old else len(text) + 1) * len(new) + len(text))


class BoundedEnvironment(ChatEnvironment):
    """The environment of transformers within limits."""

    intercepted_binops = frozenset({"%", "*", "**", "+"})

    def __init__(self) -> None:
        super().__init__(_Bounded())
        self._steps = 0
        self.globals[_STEP] = self._count_step

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise LimitExceededError(f"it makes more than {MOST_STEPS:,} steps")

    def compile_chat(self, source: str) -> Any:  # a jinja2.Template, which is untyped in what it renders
        """Return a compiled chat template; raises `jinja2.TemplateSyntaxError`."""
        return self.from_string(self.policy.editor.visit(self.parse(source)))

    def begin(self) -> None:
        """Count from zero: another rendering begins."""
        self._steps = 0

    # `Any`: operands of any type.
    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> object:
        """Compute what a template computes, unless it would be huge."""
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _require(len(left) + len(right))
            return left + right
        if operator == "*" and (isinstance(left, (str, list, tuple)) or isinstance(right, (str, list, tuple))):
            held, times = (right, left) if isinstance(left, int) else (left, right)
            _require(len(held) * times, LONGEST if isinstance(held, str) else MOST_ITEMS)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _require(left.bit_length() * right)
        if operator == "%" and isinstance(left, str):
            fields = " ".join(_OLD_FIELD.findall(left))
            widths = re.findall(r"\d+", fields + (repr(right) if "*" in fields else ""))
            _require(10 ** max(map(len, widths), default=0))
        return super().call_binop(context, operator, left, right)
