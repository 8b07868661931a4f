"""What reading rows may move: generators, counters and iterators of datasets and collators."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

_MOST = 5000  # objects visited: datasets of other people's making are shallow
_WIDE = 100  # a container with more items than this holds rows, not machinery
# Big, shared, and not moved by reading: arrays, tables, weights, tokenizers.
_LEAVES = {"Tensor", "ndarray", "Module", "PreTrainedTokenizerBase", "ProcessorMixin", "Table", "Features", "Logger"}
_BUILT_IN = {"builtins", "itertools", "_csv"}
_ENDLESS = {"count", "cycle", "repeat"}


def find_read_once(dataset: Any) -> str | None:
    """Return the type of an open iterator that a dataset reads from, such as a generator or a file; None if none.

    What was read from it is gone. Found by looking through the dataset's attributes and the variables that its
    functions close over, and by nothing that reads.
    """
    return next((type(value).__name__ for value in _walk(dataset) if _is_read_once(value)), None)


def remember_state(*owners: Any, shallow: Sequence[Any] = ()) -> Callable[[], None]:
    """Return what puts back the attributes, containers and random generators reachable from `owners`.

    Of those in `shallow`, only their own attributes and the containers that these hold.
    """
    reached = [value for owner in owners for value in _walk(owner)]
    for owner in shallow:
        reached += [owner, *(value for value in vars(owner).values() if isinstance(value, (dict, list)))]
    undo = [step for value in reached for step in _remember(value)]

    def restore() -> None:
        for step in undo:
            step()

    return restore


def _is_read_once(value: Any) -> bool:
    # An iterator of somebody's own class keeps its place in attributes, which are put back.
    if isinstance(value, io.IOBase):
        return not value.closed and value.readable()
    kind = type(value)
    return isinstance(value, Iterator) and kind.__module__ in _BUILT_IN and kind.__name__ not in _ENDLESS


def _remember(value: Any) -> list[Callable[[], None]]:
    if isinstance(value, random.Random):
        state = value.getstate()
        return [lambda: value.setstate(state)]
    name = f"{type(value).__module__}.{type(value).__name__}"
    if name == "numpy.random._generator.Generator":
        bits = value.bit_generator
        numbers = bits.state
        return [lambda: setattr(bits, "state", numbers)]
    if name == "numpy.random.mtrand.RandomState":
        numbers = value.get_state()
        return [lambda: value.set_state(numbers)]
    if name == "torch._C.Generator":
        tensor = value.get_state()
        return [lambda: value.set_state(tensor)]
    if isinstance(value, list):
        items = list(value)
        return [lambda: _fill(value, items)]
    if isinstance(value, dict):
        pairs = dict(value)
        return [lambda: _put_back(value, pairs)]
    settings = getattr(value, "__dict__", None)
    if isinstance(settings, dict):
        before = dict(settings)
        return [lambda: _put_back(settings, before)]
    return []


def _put_back(settings: dict[Any, Any], before: Mapping[Any, Any]) -> None:
    """Make `settings` hold what it held before, touching only what differs."""
    for name in [name for name in settings if name not in before]:
        del settings[name]
    for name, value in before.items():
        if name not in settings or settings[name] is not value:
            settings[name] = value


def _fill(items: list[Any], before: list[Any]) -> None:
    if len(items) != len(before) or any(one is not other for one, other in zip(items, before, strict=True)):
        items[:] = before


def _walk(start: Any) -> Iterator[Any]:
    """Yield the objects reachable from `start` through attributes, small containers and closures."""
    stack, seen = [start], {id(start): start}
    while stack and len(seen) < _MOST:
        value = stack.pop()
        yield value
        for child in _children(value):
            if id(child) not in seen:
                seen[id(child)] = child
                stack.append(child)


def _children(value: Any) -> Iterator[Any]:
    if value is None or isinstance(value, (str, bytes, int, float, type)) or type(value).__name__ == "module":
        return
    if not _LEAVES.isdisjoint(base.__name__ for base in type(value).__mro__) or _is_read_once(value):
        return
    if isinstance(value, Mapping):
        yield from (list(value.values()) if type(value) is dict and len(value) <= _WIDE else ())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from (value if len(value) <= _WIDE else ())
    elif isinstance(value, MethodType):
        yield value.__self__
        yield value.__func__
    elif isinstance(value, FunctionType):
        yield from value.__defaults__ or ()
        named = (value.__globals__.get(name) for name in value.__code__.co_names)
        yield from (thing for thing in named if _is_read_once(thing))
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
    if type(value).__name__ == "partial":
        yield from (value.func, *value.args, *value.keywords.values())
    settings = getattr(value, "__dict__", None)
    if isinstance(settings, dict) and not isinstance(value, FunctionType):
        yield from settings.values()
