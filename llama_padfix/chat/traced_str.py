"""Text that remembers who wrote each of its characters: the chat template, the tools, or a message.

A `Traced` string is a `str` in every respect. What the operations that templates use give back (concatenation,
slices, trimming, splitting, replacing, joining) is traced to the character. Whatever else is done to it gives
text of an origin that is known to be lost: never text that passes for the template's own.
"""

# ruff: noqa: D102 - the methods are those of str
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

__all__ = [
    "CLOSES",
    "LOST",
    "OPENS",
    "TEMPLATE",
    "TOOLS",
    "Traced",
    "concat",
    "lift",
    "origins_in",
    "print_value",
    "taint",
    "trace",
]

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

    def __reduce__(self) -> tuple[Any, ...]:
        return (Traced, (str.__str__(self), self._runs))

    def __add__(self, other: object) -> Traced:
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> Traced:
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> Traced:
        return concat([self] * times.__index__())

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        return format_percent(self, values)

    def __rmod__(self, pattern: str) -> str:
        return format_percent(pattern, self)

    def __iter__(self) -> Iterator[Traced]:
        return (_slice(self, place, place + 1) for place in range(len(self)))

    def __getitem__(self, key: Any) -> Traced:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return taint(str.__getitem__(self, key), (self,))
            return _slice(self, start, max(start, stop))
        text = str.__getitem__(self, key)
        place = key.__index__() % len(self)
        return Traced(text, _cut(self._runs, place, place + 1))

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

    # A list of traced pieces is a list of str, but `list` is invariant, so the three say [override].
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
        pieces = self.split(old, count)
        return lift(new).join(pieces)

    def join(self, items: Iterable[str]) -> Traced:
        pieces: list[str] = []
        for item in items:
            if not isinstance(item, str):
                raise TypeError(f"sequence item: expected str instance, {type(item).__name__} found")
            pieces += [self, item]
        return concat(pieces[1:])

    def __format__(self, spec: str) -> str:
        return self if not spec else taint(str.__format__(self, spec), (self,))


def lift(text: str) -> Traced:
    """Return a text as a traced one; a plain text is the template's."""
    return text if type(text) is Traced else Traced(text, ((len(text), TEMPLATE),))


def concat(pieces: Iterable[Any]) -> Traced:
    """Join texts, numbers and what else a template may put out, as jinja2 does."""
    texts = [piece if isinstance(piece, str) else str(print_value(piece)) for piece in pieces]
    runs: list[tuple[int, int]] = []
    for text in texts:
        if type(text) is Traced:
            runs += text._runs
        elif text:
            runs.append((len(text), TEMPLATE))
    return Traced("".join(texts), tuple(runs))


def print_value(value: Any) -> Any:
    """Return how a list or dict of traced texts is written, which is its author's; anything else as it is."""
    traced = isinstance(value, (list, tuple, Mapping)) and origins_in(value)
    return taint(str(value), value) if traced else value


def trace(value: Any, origin: int, plain: frozenset[str] = frozenset()) -> Any:
    """Return a copy of a message or a list of tools whose texts are traced; the values of `plain` keys are not.

    What is traced already keeps its origin.
    """
    if type(value) is Traced:
        return value
    if isinstance(value, str):
        return Traced(str.__str__(value), ((len(value), origin),))
    if isinstance(value, Mapping):
        return {
            key if key in plain else trace(key, origin): item
            if key in plain and isinstance(item, str)
            else trace(item, origin)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [trace(item, origin) for item in value]
    return value


def origins_in(value: Any, depth: int = 12) -> set[int]:
    """Return the origins of all traced text inside a value; plain text counts for nothing."""
    if isinstance(value, Traced):
        return {origin for length, origin in value._runs if length or origin != TEMPLATE}
    if depth and isinstance(value, Mapping):
        return {origin for pair in value.items() for item in pair for origin in origins_in(item, depth - 1)}
    if depth and isinstance(value, (list, tuple, set)):
        return {origin for item in value for origin in origins_in(item, depth - 1)}
    return set()


def taint(text: str, sources: Any) -> Traced:
    """Return a text that was made of `sources` in a way that is not followed.

    It is a message's where that is the only source, or else its origin is lost.
    """
    found = origins_in(sources)
    return Traced(text, ((len(text), found.pop() if len(found) == 1 else LOST),))


def format_percent(pattern: str, values: Any) -> str:
    """Return `pattern % values`, traced where every field is `%s`."""
    made = pattern.__mod__(values) if type(pattern) is str else str.__mod__(pattern, values)
    if not origins_in((pattern, values)):
        return made
    given = values if isinstance(values, tuple) else (values,)
    pieces = lift(pattern).split("%s")
    if len(pieces) == len(given) + 1 and "%" not in "".join(pieces):
        between = zip(pieces, [*given, ""], strict=True)
        found = concat([piece for pair in between for piece in pair])
        if found == made:
            return found
    return taint(made, (lift(pattern), values))


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


def _tainting(name: str) -> Callable[..., Any]:
    plain = getattr(str, name)

    def method(self: Traced, *args: Any, **kwargs: Any) -> Any:
        made = plain(self, *args, **kwargs)
        if isinstance(made, str):
            if len(made) == len(self) and not args and not kwargs:  # upper, lower, title, capitalize, swapcase
                return Traced(made, self._runs)
            return taint(made, (self, *(lift(arg) if isinstance(arg, str) else arg for arg in args)))
        if isinstance(made, bytes):
            raise TypeError(f"str.{name} makes bytes, which cannot be traced")
        return made

    method.__name__ = name
    return method


for _name in sorted(set(dir(str)) - set(vars(Traced)) - {"maketrans", "format", "format_map"}):
    if not _name.startswith("_") and not _name.startswith(
        ("is", "find", "index", "count", "starts", "ends", "rf", "ri")
    ):
        setattr(Traced, _name, _tainting(_name))
