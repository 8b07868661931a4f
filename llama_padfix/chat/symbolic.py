"""Chat templates run on symbolic texts, which stand for any text: what is written then holds for every text.

A `SymbolicStr` replaces the text of each message. A template can print it, join it, trim it and test its type. Where a
template searches it for a substring, the answer is that of its literals, and the substring is remembered as one that
the texts must lack. Anything else (its length, a comparison with the unknown, a filter that rewrites it) ends the run.
A run that completes has followed the only path that the template can take for texts that are not blank and lack those
substrings.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.ext
from jinja2 import nodes, runtime, utils

from llama_padfix.chat.jinja_environment import Effect, StringPolicy, TreeEditor, compile_template, raise_exception
from llama_padfix.chat.seams.noted import Prompts
from llama_padfix.chat.symbolic_slots import (
    CLOSE,
    OPEN,
    ObjectOpened,
    Slot,
    SymbolicMapping,
    TemplateBranched,
    Unknown,
    fill_holes,
)
from llama_padfix.chat.symbolic_str import PATTERN, Run, SymbolicStr, join, write_unknown_json
from llama_padfix.chat.symbolic_value import SymbolicLength, SymbolicValue

if TYPE_CHECKING:
    from llama_padfix.chat.jinja_environment import Function
    from llama_padfix.core.types import Message, Messages


def make_unseen_text() -> SymbolicStr:
    """Return a text of which a template may ask the type, and whether it is empty: no run that does more completes."""
    made = join(Run(), (OPEN, CLOSE))
    made._filled = True
    return made


def _put(text: SymbolicStr, message: Message) -> Message:
    """Return the message with a text as its content, or in the text part that it holds already."""
    parts = message.get("content")
    return {**message, "content": [{**parts[0], "text": text}] if parts else text}


def render_symbolic(
    source: str, messages: Messages, context: Mapping[str, object], clock: bool = True
) -> tuple[tuple[str, ...], tuple[Slot, ...], frozenset[str]]:
    """Render messages of which only the roles are known.

    Args:
        source: The chat template.
        messages: The messages without their texts: a symbolic text becomes the content, or the `text` of the one part
            that stands there.
        context: The other variables of the template.
        clock: Whether the template is given `strftime_now`, which ends the run.

    Returns:
        The literals around the texts, one more than slots; the slots, in the order in which they stand between the
        literals; the substrings that every text must lack.

    Raises:
        TemplateBranched: What is written depends on more of a text, or on the clock.
        Exception: Whatever a template raises.
    """
    run = Run()
    given = [_put(run.make(Slot(index), filled=True), message) for index, message in enumerate(messages)]
    return _render(source, run, {**context, "messages": given}, clock)


def render_with_holes(
    source: str, messages: Messages, tools: list[Any] | None, context: Mapping[str, object], clock: bool = True
) -> tuple[tuple[str, ...], tuple[Slot, ...], frozenset[str]]:
    """Do what `render_symbolic` does with messages and tools in which holes stand for texts, objects and numbers.

    Raises `ObjectOpened` if the template looks into such an object.
    """
    run = Run()
    given = {"messages": fill_holes(list(messages), run.fill), "tools": fill_holes(tools, run.fill)}
    return _render(source, run, {**context, **given}, clock)


def _render(
    source: str, run: Run, context: Mapping[str, object], clock: bool
) -> tuple[tuple[str, ...], tuple[Slot, ...], frozenset[str]]:
    extra: dict[str, object] = {"strftime_now": _refuse_clock} if clock else {}
    parts = PATTERN.split(str.__str__(compile_template(source, _SYMBOLIC).render({**extra, **context})))
    literals = tuple(parts[::2])
    written = "".join(literals)
    if OPEN in written or CLOSE in written:
        raise TemplateBranched("a rewriting")
    return literals, tuple(run.slots[int(number)] for number in parts[1::2]), frozenset(run.lacks)


def _refuse_clock(*args: object) -> str:
    raise TemplateBranched("the clock")


class _Membership(TreeEditor):
    """Makes `a in b` the test `a is in b`: a policy decides about tests, and not about operators."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:  # noqa: N802 - jinja2 finds it by this name
        self.generic_visit(node)
        if not any(operand.op in ("in", "notin") for operand in node.ops):
            return node
        if len(node.ops) > 1:
            raise TemplateBranched("a chain of comparisons")
        test = nodes.Test(node.expr, "in", [node.ops[0].expr], [], None, None, lineno=node.lineno)
        return test if node.ops[0].op == "in" else nodes.Not(test, lineno=node.lineno)


# Functions that return texts as they are, or keep them; `dict.get` calls the hash of a key, which ends the run.
_MAKERS = (utils.Namespace, utils.Cycler, utils.Joiner, dict, raise_exception)
_CALLABLES = (runtime.Macro, runtime.LoopContext, runtime.Undefined)
_LOCALS = ("_loop_vars", "_block_vars")  # what jinja2 passes to a function that reads its context
_CONTEXTS = (jinja2.Environment, nodes.EvalContext, runtime.Context)  # what jinja2 itself passes to a filter
_OWNERS = (SymbolicStr, runtime.LoopContext, utils.Cycler, dict, jinja2.ext.Extension, Prompts)
_TYPE_TESTS = {"string", "defined", "undefined", "none", "mapping", "iterable", "sequence", "number", "boolean"}
_TYPE_TESTS |= {"true", "false", "callable", "integer", "float"}


class _SymbolicPolicy(StringPolicy):
    """Ends the run wherever a symbolic text may be inspected or rewritten."""

    editor = _Membership()

    def on_join(self, pieces: Iterable[object]) -> str:
        texts = [str(self.on_print(piece)) for piece in pieces]
        texts = [text for text in texts if type(text) is SymbolicStr or text]
        if len(texts) == 1:
            return texts[0]
        run = next((text._run for text in texts if isinstance(text, SymbolicStr)), None)
        return "".join(texts) if run is None else join(run, texts)

    def on_print(self, value: object) -> object:
        if isinstance(value, SymbolicValue):
            return value.text
        if not isinstance(value, str) and _holds(value):  # an unknown object may be printed otherwise the next time
            raise TemplateBranched("an object")
        return value

    def on_modulo(self, left: object, right: object) -> object:
        if _holds((left, right)):
            raise TemplateBranched("%")
        return left

    def on_key(self, key: object) -> object:
        if isinstance(key, Unknown):  # a text that is no key of an object may name one of its attributes
            raise TemplateBranched("a key")
        return key

    def on_call(
        self, function: Function, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Function, tuple[object, ...]]:
        passes = isinstance(function, _CALLABLES) or isinstance(getattr(function, "__self__", None), _OWNERS)
        if not passes and not any(function is maker for maker in _MAKERS):
            given = {name: value for name, value in kwargs.items() if name not in _LOCALS or _reads_context(function)}
            if _holds((args, given)):
                raise TemplateBranched("a call")
        return function, args

    def on_filter(self, name: str, effect: Effect, function: Function) -> Function:
        @functools.wraps(function)  # which keeps the mark that jinja2 passes its context first
        def guarded(*args: object, **kwargs: object) -> object:
            if effect is Effect.TRIMS and not kwargs and len(args) == 1:
                is_number = isinstance(args[0], SymbolicValue) and args[0].kind is not str
                text = self.on_print(args[0]) if is_number else args[0]
                if type(text) is SymbolicStr:
                    return function(text)
            if name == "safe" and not kwargs and len(args) == 1 and isinstance(args[0], (SymbolicStr, SymbolicValue)):
                return SymbolicValue(str, str(self.on_print(args[0])))
            if name in ("length", "count") and type(args[0]) is SymbolicStr and args[0]:
                return SymbolicLength()
            if effect is Effect.REWRITES:
                args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
            given = [value for value in (*args, *kwargs.values()) if not isinstance(value, _CONTEXTS)]
            if name == "tojson" and _holds(args[0]):
                return write_unknown_json(*args, **kwargs)  # type: ignore[arg-type]  # as the filter takes them
            if effect is Effect.ITEMS:
                refused = any(isinstance(value, SymbolicStr) for value in given)
            elif effect is Effect.TRIMS:
                refused = _holds(given[1:] if isinstance(given[0], SymbolicStr) else given)
            else:
                refused = effect is Effect.VARIES or (effect is Effect.REWRITES and _holds(given))
            if name == "dictsort" and not kwargs and len(args) == 1 and type(args[0]) is dict:
                refused = any(type(key) is not str for key in args[0])  # it compares keys alone
            if refused:
                opened = next((value._slot.place for value in given if isinstance(value, SymbolicMapping)), None)
                raise TemplateBranched(f"the filter {name}") if opened is None else ObjectOpened(opened)
            return function(*args, **kwargs)

        return guarded

    def on_test(self, name: str, function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*args: object, **kwargs: object) -> object:
            if name == "in":
                if isinstance(args[0], SymbolicStr) and isinstance(args[1], str):
                    raise TemplateBranched("a search for a text")
            elif any(isinstance(value, Unknown) for value in (*args, *kwargs.values())):
                if name not in _TYPE_TESTS:
                    raise TemplateBranched(f"the test {name}")
                args = tuple(_sample(value) if isinstance(value, Unknown) else value for value in args)
            return function(*args, **kwargs)

        return guarded


_SYMBOLIC = _SymbolicPolicy()


def _sample(value: Unknown) -> object:
    """Return a known value of the same type."""
    if isinstance(value, (SymbolicValue, SymbolicLength)):
        return value.kind(1)
    return "text" if isinstance(value, str) else {"a": "text"}


def _reads_context(function: Function) -> bool:
    """Return True for a function that jinja2 passes its context, with the variables of a loop."""
    return any(hasattr(one, "jinja_pass_arg") for one in (function, type(function).__call__))


def _holds(value: object) -> bool:
    """Return True if a value is a symbolic text, holds one, or may hold one."""
    if isinstance(value, str):
        return isinstance(value, SymbolicStr) or OPEN in value
    if isinstance(value, SymbolicMapping):
        return True
    if isinstance(value, Mapping):
        return any(_holds(key) or _holds(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return any(map(_holds, value))
    return not (value is None or isinstance(value, (bool, int, float, range, jinja2.Undefined)))
