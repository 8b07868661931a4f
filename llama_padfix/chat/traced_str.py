"""Traced text: strings whose every character knows its origin, the chat template, the tools, or a message.

A `Traced` string is a `str` in every respect. The operations that templates use (concatenation, slices, trimming,
splitting, replacing, joining, plain formatting) are followed to the character. The result of any other operation has
a lost origin, and never counts as the template's text.
"""

# ruff: noqa: D102 - the methods are those of str
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from string import Formatter
from typing import Any, SupportsIndex

from llama_padfix.chat.jinja_environment import PLAIN_DICTS

TEMPLATE, LOST, TOOLS, OPENS, CLOSES = -1, -2, -3, -4, -5
"""Origins beside the index of a message; `OPENS` and `CLOSES` stand, without width, around `{% generation %}`."""

Runs = tuple[tuple[int, int], ...]
"""(length, origin) of each piece in order. A run without width marks where an empty text was written."""


class Traced(str):
    """A `str` with the origin of every character. Made without `runs`, its origin is lost."""

    __slots__ = ("_runs",)
    _runs: Runs

    def __new__(cls, text: object = "", runs: Runs | None = None) -> Traced:
        made = str.__new__(cls, text)
        made._runs = ((len(made), LOST),) if runs is None else runs
        return made

    def __str__(self) -> Traced:
        return self

    def __reduce__(self) -> tuple[type[Traced], tuple[str, Runs]]:
        return (Traced, (str.__str__(self), self._runs))

    def __add__(self, other: object) -> Traced:
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> Traced:
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> Traced:
        return concat([self] * times.__index__())

    __rmul__ = __mul__

    def __mod__(self, values: object) -> str:
        return format_percent(self, values)

    def __rmod__(self, pattern: str) -> str:
        return format_percent(pattern, self)

    def __iter__(self) -> Iterator[Traced]:
        return (_slice(self, place, place + 1) for place in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice) -> Traced:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return _slice(self, start, stop) if step == 1 else taint(str.__getitem__(self, key), self)
        place = range(len(self))[key]
        return _slice(self, place, place + 1)

    def strip(self, chars: str | None = None) -> Traced:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> Traced:
        return _slice(self, len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None) -> Traced:
        return _slice(self, 0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str) -> Traced:
        return _slice(self, len(prefix) if str.startswith(self, prefix) else 0, len(self))

    def removesuffix(self, suffix: str) -> Traced:
        return _slice(self, 0, len(self) - len(suffix) if suffix and str.endswith(self, suffix) else len(self))

    # [override] three times: a list of traced pieces is a list of str, but `list` is invariant.
    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Traced]:  # type: ignore[override]
        return _locate(self, str.split(self, sep, maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Traced]:  # type: ignore[override]
        return _locate(self, str.rsplit(self, sep, maxsplit), len(sep or ""))

    def splitlines(self, keepends: bool = False) -> list[Traced]:  # type: ignore[override]
        lines = _locate(self, str.splitlines(self, True), 0)
        return lines if keepends else [_slice(line, 0, len(str.splitlines(line)[0])) for line in lines]

    def partition(self, sep: str) -> tuple[Traced, Traced, Traced]:
        one, two, three = _locate(self, list(str.partition(self, sep)), 0)
        return one, two, three

    def rpartition(self, sep: str) -> tuple[Traced, Traced, Traced]:
        one, two, three = _locate(self, list(str.rpartition(self, sep)), 0)
        return one, two, three

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Traced:
        if not old:
            return taint(str.replace(self, old, new, count), (self, lift(new)))
        return lift(new).join(self.split(old, count))

    def join(self, items: Iterable[str]) -> Traced:
        pieces: list[str] = []
        for item in items:
            if not isinstance(item, str):
                raise TypeError(f"sequence item: expected str instance, {type(item).__name__} found")
            pieces += [self, item]
        return concat(pieces[1:])

    def __format__(self, spec: str) -> str:
        return self if not spec else taint(str.__format__(self, spec), (self,))


class TracedDict(dict[Any, Any]):  # Any: of whatever shape the data has
    """A dict whose texts, at any depth, have one origin."""

    __slots__ = ("_origin",)
    _origin: int


PLAIN_DICTS.add(TracedDict)


def lift(text: str) -> Traced:
    """Return a text as a traced one; a plain text is the template's."""
    return text if type(text) is Traced else Traced(text, ((len(text), TEMPLATE),))


def concat(pieces: Iterable[object]) -> Traced:
    """Join texts, numbers and what else a template may print, as jinja2 does."""
    texts = [piece if isinstance(piece, str) else str(print_value(piece)) for piece in pieces]
    runs: list[tuple[int, int]] = []
    for text in texts:
        if type(text) is Traced:
            runs += text._runs
        elif text:
            runs.append((len(text), TEMPLATE))
    return Traced("".join(texts), tuple(runs))


def print_value(value: object) -> object:
    """Return a list or dict that holds traced texts as the tainted text that is printed, anything else as it is."""
    return taint(str(value), value) if not isinstance(value, str) and origins_in(value) else value


# Any: a message holds a user's data, and its copy has the same shape.
def trace(value: Any, origin: int, plain: frozenset[str] = frozenset()) -> Any:
    """Return a copy of a message or a list of tools whose texts are traced; the values of `plain` keys are not.

    A text that is traced already keeps its origin, and so does a dict.
    """
    if type(value) in (Traced, TracedDict):
        return value
    if isinstance(value, str):
        return Traced(str.__str__(value), ((len(value), origin),))
    if isinstance(value, (dict, Mapping)):
        if plain:
            return {
                key if key in plain else trace(key, origin): item
                if key in plain and isinstance(item, str)
                else trace(item, origin)
                for key, item in value.items()
            }
        traced = TracedDict({trace(key, origin): trace(item, origin) for key, item in value.items()})
        traced._origin = origin
        return traced
    if isinstance(value, (list, tuple)):
        return [trace(item, origin) for item in value]
    return value


def origins_in(value: object, depth: int = 12) -> set[int]:
    """Return the origins of all traced text inside a value; plain text has none."""
    found: set[int] = set()
    _add_origins(value, depth, found)
    return found


def _add_origins(value: object, depth: int, found: set[int]) -> None:
    if isinstance(value, Traced):
        for length, origin in value._runs:
            if length or origin != TEMPLATE:
                found.add(origin)
    elif isinstance(value, str) or not depth:
        return
    elif type(value) is TracedDict:
        if value:
            found.add(value._origin)
    elif isinstance(value, (dict, Mapping)):  # the first of the two takes less time
        for key, item in value.items():
            _add_origins(key, depth - 1, found)
            _add_origins(item, depth - 1, found)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            _add_origins(item, depth - 1, found)


def taint(text: str, sources: object) -> Traced:
    """Return a text that an operation made of `sources` without tracing it to the character.

    Its origin is that of the sources where they have one, or else it is lost.
    """
    found = origins_in(sources)
    return Traced(text, ((len(text), found.pop() if len(found) == 1 else LOST),))


def format_percent(pattern: str, values: object) -> str:
    """Return `pattern % values`, traced where every field is `%s`."""
    made = str.__mod__(pattern, values)
    if not origins_in((pattern, values)):
        return made
    given = values if isinstance(values, tuple) else (values,)
    literals = lift(pattern).split("%s")
    if len(literals) == len(given) + 1 and "%" not in "".join(literals):
        found = concat(piece for pair in zip(literals, [*given, ""], strict=True) for piece in pair)
        if found == made:
            return found
    return taint(made, (lift(pattern), values))


def format_braces(made: str, pattern: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
    """Return `made`, which is `pattern.format(*args, **kwargs)`, traced where every field is a bare name or number."""
    if not origins_in((pattern, args, kwargs)):
        return made
    sources = (lift(pattern), args, kwargs)
    is_followed = type(pattern) is not Traced or origins_in(pattern) == {TEMPLATE}
    pieces: list[object] = []
    places = count()
    for literal, name, spec, conversion in Formatter().parse(str.__str__(pattern)):
        pieces.append(literal)
        if name is None:
            continue
        if spec or conversion not in (None, "s") or not (name.isalnum() or name.isidentifier() or not name):
            is_followed = False
            break
        pieces.append(kwargs[name] if name and not name.isdigit() else args[int(name or next(places))])
    found = concat(pieces)
    return found if is_followed and found == made else taint(made, sources)


def _slice(text: Traced, start: int, stop: int) -> Traced:
    if start == 0 and stop == len(text):
        return text
    stop = max(start, stop)
    return Traced(str.__getitem__(text, slice(start, stop)), _cut(text._runs, start, stop))


def _cut(runs: Runs, start: int, stop: int) -> Runs:
    """Return the runs of a slice; an empty one keeps, without width, the origins of where it was."""
    found: list[tuple[int, int]] = []
    position = 0
    for length, origin in runs:
        left, right = max(position, start), min(position + length, stop)
        if left < right or (left == right and (length == 0 or start == stop) and origin != TEMPLATE):
            found.append((right - left, origin))
        position += length
    return tuple(found)


def _locate(text: Traced, pieces: list[str], gap: int) -> list[Traced]:
    """Return the pieces of a text, given in order with `gap` characters between, or white space where it is 0."""
    found: list[Traced] = []
    position = 0
    for piece in pieces:
        position = position if gap or not piece else str.find(text, piece, position)
        found.append(Traced(piece, _cut(text._runs, position, position + len(piece))))
        position += len(piece) + gap
    return found


def _tainting(name: str) -> Callable[..., Traced]:
    plain = getattr(str, name)

    def method(self: Traced, *args: object, **kwargs: object) -> Traced:
        made = plain(self, *args, **kwargs)
        if not isinstance(made, str):
            raise TypeError(f"str.{name} makes {type(made).__name__}, which cannot be traced")
        if len(made) == len(self) and not args and not kwargs:  # upper, lower, title, capitalize, swapcase
            return Traced(made, self._runs)
        return taint(made, (self, *(lift(arg) if isinstance(arg, str) else arg for arg in args)))

    return method


# Every other method of str that makes a text, one that a later Python brings included: none gives untraced text.
_ANSWERS = ("is", "find", "rfind", "index", "rindex", "count", "startswith", "endswith", "maketrans", "format", "_")
for _name in dir(str):
    if _name not in vars(Traced) and not _name.startswith(_ANSWERS):
        setattr(Traced, _name, _tainting(_name))
