"""Chat templates run on symbolic texts, which stand for any text: what is written then holds for every text.

A `SymbolicStr` replaces the text of each message. A template can print it, join it, trim it and test its type. Where a
template searches it for a substring, the answer is no, and the substring is remembered as one that the texts must
lack. Anything else (its length, a comparison with the unknown, a filter that rewrites it) ends the run. A run that
completes has followed the only path that the template can take for texts that are not blank and lack those substrings.
"""

# ruff: noqa: D102 - the methods are those of str
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

import jinja2
import jinja2.ext
from jinja2 import nodes, runtime, utils

from llama_padfix.chat.jinja_environment import Effect, StringPolicy, TreeEditor, compile_template, raise_exception

if TYPE_CHECKING:
    from llama_padfix.chat.jinja_environment import Function
    from llama_padfix.core.types import Message, Messages

_OPEN, _CLOSE = "\ue000", "\ue001"
# White space at both ends, letters of both cases and what HTML and JSON escape: a rewriting shows.
_MARK = f"\n {_OPEN}aZ<&>'\"\\%d{_CLOSE} \n"
_PATTERN = re.compile(re.escape(_MARK).replace("%d", r"(\d+)"))


class TemplateBranched(BaseException):
    """What a template writes depends on more of a text; no `Exception`, so that nothing in jinja2 catches it."""


class Slot(NamedTuple):
    """Where a message's text stands: its message, and the trimming methods with their argument, in order."""

    message: int
    operations: tuple[tuple[str, str | None], ...] = ()


def trim(text: str, operations: Iterable[tuple[str, str | None]]) -> str:
    """Return a text as the operations of its slot leave it."""
    for method, chars in operations:
        text = getattr(text, method)(chars)
    return text


@dataclass
class _Run:
    """What is learned while a template runs: the slots by number, and the substrings that the texts must lack."""

    slots: list[Slot] = field(default_factory=list)
    lacks: set[str] = field(default_factory=set)

    def make(self, slot: Slot, filled: bool) -> SymbolicStr:
        made = SymbolicStr(_MARK % len(self.slots))
        made._run, made._slot, made._filled = self, slot, filled
        self.slots.append(slot)
        return made


class SymbolicStr(str):
    """A text whose characters are unknown; without a slot, one that was joined from such and others."""

    __slots__ = ("_filled", "_run", "_slot")
    _run: _Run
    _slot: Slot | None
    _filled: bool

    def __str__(self) -> str:
        return self

    def __repr__(self) -> str:
        raise TemplateBranched("repr")

    def __bool__(self) -> bool:
        if self._filled:  # what is learned here is used for texts that are not blank
            return True
        raise TemplateBranched("truth")

    def __add__(self, other: object) -> str:
        if not isinstance(other, str):
            return NotImplemented
        return _wrap(self._run, str.__add__(self, other), self._filled or _is_filled(other))

    def __radd__(self, other: object) -> str:
        if not isinstance(other, str):
            return NotImplemented
        return _wrap(self._run, str.__add__(other, self), self._filled or _is_filled(other))

    def __contains__(self, words: object) -> bool:
        return self._lacks(words)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return False
        return self._lacks(other) if isinstance(other, SymbolicStr) or other else not self

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        raise TemplateBranched("hash")

    def strip(self, chars: str | None = None) -> str:
        return self._trim("strip", chars)

    def lstrip(self, chars: str | None = None) -> str:
        return self._trim("lstrip", chars)

    def rstrip(self, chars: str | None = None) -> str:
        return self._trim("rstrip", chars)

    def startswith(self, words: object, *place: object) -> bool:
        return self._lacks(words, *place)

    def endswith(self, words: object, *place: object) -> bool:
        return self._lacks(words, *place)

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        self._lacks(sep, *_but_numbers(maxsplit))
        return [self]

    rsplit = split

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        self._lacks(old, *_but_numbers(count))
        return self

    def _trim(self, method: str, chars: str | None) -> str:
        if self._slot is None or (chars is not None and type(chars) is not str):
            raise TemplateBranched(method)
        slot = Slot(self._slot.message, (*self._slot.operations, (method, chars)))
        # A text that is not blank stays so when white space is trimmed; it may consist of other characters.
        return self._run.make(slot, self._filled and (chars is None or not chars.strip()))

    def _lacks(self, words: object, *place: object) -> bool:
        """Return False: the text holds no such substring, which becomes a condition."""
        if self._slot is None or type(words) is not str or not words or place:
            raise TemplateBranched("a search")
        self._run.lacks.add(words)
        return False


def _but_numbers(*values: object) -> list[object]:
    return [value for value in values if type(value) is not int]


def _forbid(name: str) -> Callable[..., object]:
    def method(self: SymbolicStr, *args: object, **kwargs: object) -> object:
        raise TemplateBranched(name)

    return method


_KEPT = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__dir__", "__doc__"}
_KEPT |= {"__init_subclass__", "__subclasshook__", "__sizeof__", *vars(SymbolicStr)}
# Every other method of str, one that a later Python brings included. Python and markupsafe look up the last three.
for _name in {*dir(str), "__iter__", "__rmod__", "__html__"} - _KEPT:
    setattr(SymbolicStr, _name, _forbid(_name))


def _join(run: _Run, pieces: Sequence[str]) -> SymbolicStr:
    return _wrap(run, "".join(pieces), any(map(_is_filled, pieces)))


def _wrap(run: _Run, text: str, filled: bool) -> SymbolicStr:
    made = SymbolicStr(text)
    made._run, made._slot, made._filled = run, None, filled
    return made


def _is_filled(piece: str) -> bool:
    return piece._filled if isinstance(piece, SymbolicStr) else str.__len__(piece) > 0


def make_unseen_text() -> SymbolicStr:
    """Return a text of which a template may ask the type, and whether it is empty: no run that does more completes."""
    made = _join(_Run(), (_OPEN, _CLOSE))
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
    template = compile_template(source, _SYMBOLIC)
    run = _Run()
    given = [_put(run.make(Slot(index), filled=True), message) for index, message in enumerate(messages)]
    extra = {"strftime_now": _refuse_clock} if clock else {}
    parts = _PATTERN.split(str.__str__(template.render({**extra, **context, "messages": given})))
    literals = tuple(parts[::2])
    written = "".join(literals)
    if _OPEN in written or _CLOSE in written:
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
_OWNERS = (SymbolicStr, runtime.LoopContext, utils.Cycler, dict, jinja2.ext.Extension)
_TYPE_TESTS = {"string", "defined", "undefined", "none", "mapping", "iterable", "sequence", "number", "boolean"}
_TYPE_TESTS |= {"true", "false", "callable", "integer", "float"}


class _SymbolicPolicy(StringPolicy):
    """Ends the run wherever a symbolic text may be inspected or rewritten."""

    editor = _Membership()

    def on_join(self, pieces: Iterable[object]) -> str:
        texts = [str(self.on_print(piece)) for piece in pieces]
        run = next((text._run for text in texts if isinstance(text, SymbolicStr)), None)
        return "".join(texts) if run is None else _join(run, texts)

    def on_print(self, value: object) -> object:
        if not isinstance(value, str) and _holds(value):  # an unknown object may be printed otherwise the next time
            raise TemplateBranched("an object")
        return value

    def on_modulo(self, left: object, right: object) -> object:
        if _holds((left, right)):
            raise TemplateBranched("%")
        return left

    def on_key(self, key: object) -> object:
        if isinstance(key, SymbolicStr):  # a text that is no key of an object may name one of its attributes
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
            if effect is Effect.TRIMS and not kwargs and len(args) == 1 and type(args[0]) is SymbolicStr:
                return function(args[0])
            if effect is Effect.REWRITES:
                args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
            given = [value for value in (*args, *kwargs.values()) if not isinstance(value, _CONTEXTS)]
            if effect is Effect.ITEMS:
                refused = any(isinstance(value, SymbolicStr) for value in given)
            elif effect is Effect.TRIMS:
                refused = _holds(given[1:] if isinstance(given[0], SymbolicStr) else given)
            else:
                refused = effect is Effect.VARIES or (effect is Effect.REWRITES and _holds(given))
            if refused:
                raise TemplateBranched(f"the filter {name}")
            return function(*args, **kwargs)

        return guarded

    def on_test(self, name: str, function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*args: object, **kwargs: object) -> object:
            if name == "in":
                if isinstance(args[0], SymbolicStr) and isinstance(args[1], str):
                    raise TemplateBranched("a search for a text")
            elif any(isinstance(value, SymbolicStr) for value in (*args, *kwargs.values())):
                if name not in _TYPE_TESTS:
                    raise TemplateBranched(f"the test {name}")
                args = tuple("text" if isinstance(value, SymbolicStr) else value for value in args)
            return function(*args, **kwargs)

        return guarded


_SYMBOLIC = _SymbolicPolicy()


def _reads_context(function: Function) -> bool:
    """Return True for a function that jinja2 passes its context, with the variables of a loop."""
    return any(hasattr(one, "jinja_pass_arg") for one in (function, type(function).__call__))


def _holds(value: object) -> bool:
    """Return True if a value is a symbolic text, holds one, or may hold one."""
    if isinstance(value, str):
        return isinstance(value, SymbolicStr) or _OPEN in value
    if isinstance(value, Mapping):
        return any(_holds(key) or _holds(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return any(map(_holds, value))
    return not (value is None or isinstance(value, (bool, int, float, range, jinja2.Undefined)))
