"""Chat templates run on texts that they cannot look into: what they write then holds for every text.

Each message's text is replaced by an `SymbolicStr` one. It can be written, joined, trimmed and asked for its type; a
template that asks whether it holds some words is told no, and the words are remembered as what the text must lack.
Anything else (its length, a comparison with the unknown, a filter that rewrites it) ends the run. A run that ends
well has followed the only path that the template can take for texts that are not blank and lack those words.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Slot", "TemplateBranched", "render_symbolic", "trim"]

_OPEN, _CLOSE = "\ue000", "\ue001"
# White space at both ends, letters of both cases and what HTML and JSON escape: a rewriting shows.
_MARK = f"\n {_OPEN}aZ<&>'\"\\%d{_CLOSE} \n"
_PATTERN = re.compile(re.escape(_MARK).replace("%d", r"(\d+)"))


class TemplateBranched(BaseException):
    """A template looked into a text; no `Exception`, so that neither jinja2 nor a test in it hides this."""


@dataclass(frozen=True)
class Slot:
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
    """What is learned while a template runs: the slots by number, and what the texts must lack."""

    slots: list[Slot] = field(default_factory=list)
    lacks: set[str] = field(default_factory=set)

    def make(self, slot: Slot) -> SymbolicStr:
        self.slots.append(slot)
        made = SymbolicStr(_MARK % (len(self.slots) - 1))
        made._run, made._slot = self, slot
        # A text that is not blank stays so when white space is trimmed; of other characters it may consist.
        made._filled = all(chars is None or not chars.strip() for _, chars in slot.operations)
        return made


class SymbolicStr(str):
    """A text that cannot be looked into; without a slot it is one joined of such and others."""

    __slots__ = ("_filled", "_run", "_slot")
    _run: _Run
    _slot: Slot | None
    _filled: bool

    def __str__(self) -> str:
        return self

    def __repr__(self) -> str:
        raise TemplateBranched("repr")

    def __bool__(self) -> bool:
        if self._filled:  # only texts that are not blank are rendered by what is learned here
            return True
        raise TemplateBranched("truth")

    def __add__(self, other: object) -> str:
        return _join(self._run, (self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> str:
        return _join(self._run, (other, self)) if isinstance(other, str) else NotImplemented

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

    def startswith(self, words: Any, *place: Any) -> bool:
        return self._lacks(words, *place)

    def endswith(self, words: Any, *place: Any) -> bool:
        return self._lacks(words, *place)

    def split(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        self._lacks(sep, *_but_numbers(maxsplit))
        return [self]

    def rsplit(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        self._lacks(sep, *_but_numbers(maxsplit))
        return [self]

    # typeshed's signature of `count` differs between Python's versions.
    def replace(self, old: str, new: str, count: Any = -1) -> str:  # type: ignore[override, unused-ignore]
        self._lacks(old, *_but_numbers(count))
        return self

    def _trim(self, method: str, chars: str | None) -> str:
        if self._slot is None or (chars is not None and type(chars) is not str):
            raise TemplateBranched(method)
        return self._run.make(Slot(self._slot.message, (*self._slot.operations, (method, chars))))

    def _lacks(self, words: object, *place: object) -> bool:
        """Say that the text does not hold these words, and keep them as a condition."""
        if self._slot is None or type(words) is not str or not words or place:
            raise TemplateBranched("a search")
        self._run.lacks.add(words)
        return False


def _but_numbers(*values: object) -> list[object]:
    return [value for value in values if type(value) is not int]


def _forbid(name: str) -> Callable[..., Any]:
    def method(self: SymbolicStr, *args: Any, **kwargs: Any) -> Any:
        raise TemplateBranched(name)

    return method


_KEPT = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__dir__", "__doc__"}
_KEPT |= {"__init_subclass__", "__subclasshook__", "__sizeof__"}
for _name in dir(str):
    if _name not in vars(SymbolicStr) and _name not in _KEPT:
        setattr(SymbolicStr, _name, _forbid(_name))
SymbolicStr.__iter__ = _forbid("__iter__")  # type: ignore[method-assign]
SymbolicStr.__rmod__ = _forbid("__rmod__")  # type: ignore[attr-defined]
SymbolicStr.__html__ = _forbid("__html__")  # type: ignore[attr-defined]


def _join(run: _Run, pieces: Sequence[Any]) -> SymbolicStr:
    made = SymbolicStr("".join(pieces))
    made._run, made._slot = run, None
    made._filled = any(piece._filled if isinstance(piece, SymbolicStr) else str.__len__(piece) for piece in pieces)
    return made


def render_symbolic(
    source: str, messages: Sequence[Mapping[str, Any]], context: Mapping[str, Any], clock: bool = True
) -> tuple[tuple[str, ...], tuple[Slot, ...], frozenset[str]]:
    """Return what a template writes around the texts of messages, their slots, and what the texts must lack.

    There is one literal more than slots: the text is literals and slots in turn. `context` is what the template is
    given beside the messages. Raises `TemplateBranched` where the text depends on more than that, and whatever a
    template raises.
    """
    template = _compile(source)
    run = _Run()
    given = [{**message, "content": run.make(Slot(index))} for index, message in enumerate(messages)]
    extra = {"strftime_now": _refuse_clock} if clock else {}
    text = "".join(map(str.__str__, template.generate(**{**extra, **context, "messages": given})))
    parts = _PATTERN.split(text)
    literals = tuple(parts[::2])
    if any(char in literal for literal in literals for char in (_OPEN, _CLOSE)):
        raise TemplateBranched("a rewriting")
    return literals, tuple(run.slots[int(number)] for number in parts[1::2]), frozenset(run.lacks)


def _refuse_clock(*args: Any) -> str:
    raise TemplateBranched("the clock")


@functools.lru_cache(maxsize=64)
def _compile(source: str) -> Any:
    return _environment().from_string(source)


@functools.cache
def _environment() -> Any:
    import jinja2
    import jinja2.ext
    import jinja2.visitor

    from llama_padfix.chat.jinja_environment import ChatEnvironment, raise_exception

    class Membership(jinja2.visitor.NodeTransformer):
        """Turns `a in b` into the test `a is in b`: what looks into `b` can then be told."""

        def visit_Compare(self, node: Any) -> Any:  # noqa: N802 - as jinja2 calls it
            self.generic_visit(node)
            if not any(operand.op in ("in", "notin") for operand in node.ops):
                return node
            if len(node.ops) > 1:
                raise TemplateBranched("a chain of comparisons")
            test = jinja2.nodes.Test(node.expr, "in", [node.ops[0].expr], [], None, None, lineno=node.lineno)
            return test if node.ops[0].op == "in" else jinja2.nodes.Not(test, lineno=node.lineno)

    class Environment(ChatEnvironment):
        concat = staticmethod(_concat)

        def _parse(self, *args: Any) -> Any:
            return Membership().visit(super()._parse(*args))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _holds((left, right)):
                raise TemplateBranched("%")
            return super().call_binop(context, operator, left, right)

        def getitem(self, obj: Any, argument: Any) -> Any:
            if isinstance(argument, SymbolicStr):  # what is no key of `obj` may name one of its attributes
                raise TemplateBranched("a key")
            return super().getitem(obj, argument)

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
            owner = getattr(__obj, "__self__", None)
            passes = isinstance(__obj, passing) or isinstance(owner, owners) or any(__obj is one for one in makers)
            if not passes and _holds((args, kwargs)):
                raise TemplateBranched("a call")
            return super().call(__context, __obj, *args, **kwargs)

    environment = Environment(finalize=_print)
    # What takes texts and does nothing but hand them on; `dict.get` asks for the hash of a key.
    runtime, utils = jinja2.runtime, jinja2.utils
    makers = [utils.Namespace, utils.Cycler, utils.Joiner, dict, raise_exception]
    passing = (runtime.Macro, runtime.LoopContext, runtime.Undefined)
    owners = (SymbolicStr, runtime.LoopContext, utils.Cycler, dict, jinja2.ext.Extension)
    environment.filters["tojson"] = _to_json
    for name, function in list(environment.filters.items()):
        environment.filters[name] = _guard_filter(name, function)
    tests: dict[str, Any] = environment.tests
    tests.update({name: _guard_test(name, test) for name, test in tests.items()})
    del environment.globals["lipsum"]  # other words each time
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _concat(pieces: Any) -> str:
    """Join what a macro or `~` joins; opaque where one of the pieces is."""
    texts = [str(_print(piece)) for piece in pieces]
    run = next((text._run for text in texts if isinstance(text, SymbolicStr)), None)
    return "".join(texts) if run is None else _join(run, texts)


def _print(value: Any) -> Any:
    """Return what is printed; an unknown object may be printed otherwise the next time."""
    if not isinstance(value, str) and _holds(value):
        raise TemplateBranched("an object")
    return value


_OF_LISTS = {"selectattr", "rejectattr", "map", "select", "reject", "list", "first", "last", "length", "count"}
_OF_LISTS |= {"items"}
_BY_TYPE = {"string", "defined", "undefined", "none", "mapping", "iterable", "sequence", "number", "boolean"}
_BY_TYPE |= {"true", "false", "callable", "integer", "float"}


def _guard_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter see opaque texts only where it does nothing but pass them on."""
    own = 1 if hasattr(function, "jinja_pass_arg") else 0  # the first argument may be the template's context

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        value, given = args[own : own + 1], (*args[own:], *kwargs.values())
        if name in _OF_LISTS:
            refused = any(isinstance(one, SymbolicStr) for one in given)
        elif name in ("trim", "string"):
            refused = _holds(given[1:] if isinstance(value[0], SymbolicStr) else given)
        else:
            args = (*args[:own], *(list(one) if hasattr(one, "__next__") else one for one in args[own:]))
            refused = name == "random" or (name not in ("default", "d") and _holds((args[own:], kwargs)))
        if refused:
            raise TemplateBranched(f"the filter {name}")
        return function(*args, **kwargs)

    return guarded


def _guard_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a test ask an opaque text for its type alone."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if name == "in":
            if isinstance(args[0], SymbolicStr) and isinstance(args[1], str):
                raise TemplateBranched("a search for a text")
        elif any(isinstance(value, SymbolicStr) for value in (*args, *kwargs.values())):
            if name not in _BY_TYPE:
                raise TemplateBranched(f"the test {name}")
            args = tuple("text" if isinstance(value, SymbolicStr) else value for value in args)
        return function(*args, **kwargs)

    return guarded


def _holds(value: Any) -> bool:
    """Tell whether a value is an opaque text, or holds one, or may hold one."""
    if isinstance(value, str):
        return isinstance(value, SymbolicStr) or _OPEN in value
    if isinstance(value, Mapping):
        return any(_holds(key) or _holds(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return any(map(_holds, value))
    return not (value is None or isinstance(value, (bool, int, float, range)) or hasattr(value, "_undefined_name"))
