"""What reading rows may move: generators, counters and iterators of datasets and collators."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType, ModuleType

_MOST = 5000  # objects visited: the classes of datasets are shallow
_WIDE = 100  # a container with more items than this holds rows
# Large, shared, and unchanged by reading: arrays, tables, weights, tokenizers.
_LEAVES = {"Tensor", "ndarray", "Module", "PreTrainedTokenizerBase", "ProcessorMixin", "Table", "Features", "Logger"}
_BUILT_IN = {"builtins", "itertools", "_csv"}
_ENDLESS = {"count", "cycle", "repeat"}


def find_read_once(dataset: object) -> str | None:
    """Return the type of an open iterator that a dataset reads from, such as a generator or a file; None if none.

    Such an iterator can be read once. The search covers the dataset's attributes and the variables that its functions
    close over, and reads no row.
    """
    return next((type(value).__name__ for value in _walk(dataset) if _is_read_once(value)), None)


def remember_state(*owners: object, shallow: Sequence[object] = ()) -> Callable[[], None]:
    """Return what puts back the attributes, containers and random generators reachable from `owners`.

    Args:
        owners: objects of which everything reachable is remembered.
        shallow: objects of which only the attributes, and the lists and dicts that these hold, are remembered.
    """
    reached = [value for owner in owners for value in _walk(owner)]
    for owner in shallow:
        reached += [owner, *(value for value in vars(owner).values() if isinstance(value, (dict, list)))]
    steps = [step for value in reached if (step := _remember(value)) is not None]

    def restore() -> None:
        for step in steps:
            step()

    return restore


def _is_read_once(value: object) -> bool:
    # An iterator of another module's class keeps its place in attributes, which are put back.
    if isinstance(value, io.IOBase):
        return not value.closed and value.readable()
    kind = type(value)
    return isinstance(value, Iterator) and kind.__module__ in _BUILT_IN and kind.__name__ not in _ENDLESS


def _remember(value: object) -> Callable[[], object] | None:
    """Return what puts back the state of one object; None for an object without one."""
    import numpy as np
    import torch

    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, list):
        return partial(_put_back_items, value, list(value))
    settings = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    return partial(_put_back, settings, dict(settings)) if isinstance(settings, dict) else None


def _put_back(settings: dict[object, object], before: Mapping[object, object]) -> None:
    """Make `settings` hold what it held before, changing only what differs."""
    for name in [name for name in settings if name not in before]:
        del settings[name]
    for name, value in before.items():
        if name not in settings or settings[name] is not value:
            settings[name] = value


def _put_back_items(items: list[object], before: list[object]) -> None:
    if len(items) != len(before) or any(one is not other for one, other in zip(items, before, strict=True)):
        items[:] = before


def _walk(start: object) -> Iterator[object]:
    """Yield the objects reachable from `start` through attributes, small containers and closures."""
    stack, seen = [start], {id(start): start}
    while stack and len(seen) < _MOST:
        value = stack.pop()
        yield value
        for child in _children(value):
            if id(child) not in seen:
                seen[id(child)] = child
                stack.append(child)


def _children(value: object) -> Iterator[object]:
    if value is None or isinstance(value, (str, bytes, int, float, type, ModuleType)):
        return
    if not _LEAVES.isdisjoint(base.__name__ for base in type(value).__mro__) or _is_read_once(value):
        return
    if isinstance(value, Mapping):
        yield from (list(value.values()) if type(value) is dict and len(value) <= _WIDE else ())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from (value if len(value) <= _WIDE else ())
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, FunctionType):
        yield from value.__defaults__ or ()
        named = (value.__globals__.get(name) for name in value.__code__.co_names)
        yield from (thing for thing in named if _is_read_once(thing))
        yield from filled_cells(value)
        return
    if isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    settings = getattr(value, "__dict__", None)
    yield from settings.values() if isinstance(settings, dict) else ()


def filled_cells(function: object) -> Iterator[object]:
    """Yield the values that a function closes over, without cells that are not filled yet."""
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):
            yield cell.cell_contents
