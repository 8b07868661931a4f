"""What reading rows moves: generators, counters, containers, arrays and open files; and what can be read only once."""

from __future__ import annotations

import array
import ctypes
import io
import itertools
import mmap
import multiprocessing.connection
import multiprocessing.queues
import operator
import queue
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import CellType, FunctionType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, cast

from llama_padfix.doctor.observe.reachable import global_names, is_own_code, members_of, walk

if TYPE_CHECKING:
    import torch

    from llama_padfix.core.types import IntArray

_MOST_ITEMS = 4_000_000  # items of containers, arrays and tensors that are remembered, all together
_CTYPES = (ctypes._SimpleCData, ctypes.Array, ctypes.Structure, ctypes.Union)
_SLOT_BYTES = 16  # of a set: a hash and a pointer
_MISSING = object()
_Step = Callable[[], object]


def find_read_once(*owners: object, seeks: bool = False) -> str | None:
    """Return the type of an open iterator that the owners read from, such as a generator; None if none.

    Such an iterator can be read once, and its place cannot be put back. The search covers attributes, items, closures,
    the methods of the user's own classes and the globals that these name, and reads no row.

    Args:
        *owners: datasets, collators, samplers.
        seeks: an open file whose place can be put back does not count, as it does for a stream, which reads on in it.
    """
    return next((type(value).__name__ for value in walk(*owners) if _is_read_once(value, seeks)), None)


def remember_state(*owners: object, shallow: Sequence[object] = ()) -> Callable[[], None]:
    """Return what puts back the state that is reachable from `owners`.

    That is, as far as 20,000 objects and 4 million items go, the nearest first: random generators of Python, NumPy and
    torch; attributes and `__slots__`; lists, dicts, sets, deques, bytearrays, arrays and tensors in place; ctypes such
    as those of `multiprocessing.Value`; places in open files that can seek; variables of closures; and of the user's
    own code the attributes of classes and the globals that functions bind.

    Args:
        owners: objects of which everything reachable is remembered.
        shallow: objects of which only the attributes, and the lists and dicts that these hold, are remembered.
    """
    left = [_MOST_ITEMS]
    steps = [step for value in walk(*owners) for step in _remember(value, left)]
    for owner in shallow:
        for value in (owner, *(value for value in vars(owner).values() if isinstance(value, (dict, list)))):
            steps += _remember(value, left)

    def restore() -> None:
        for step in steps:
            with suppress(OSError, ValueError):  # a file that was closed meanwhile, an array that has other owners
                step()

    return restore


def _is_read_once(value: object, seeks: bool) -> bool:
    if isinstance(value, io.IOBase):
        return not value.closed and value.readable() and not (seeks and _find_place(value) is not None)
    if isinstance(value, itertools.repeat):
        return _has_end(value)
    if isinstance(value, (multiprocessing.queues.Queue, multiprocessing.connection.Connection, queue.SimpleQueue)):
        return True
    # An iterator that is written in Python keeps its place in attributes, which are put back.
    step = getattr(type(value), "__next__", None)
    return step is not None and not isinstance(step, FunctionType)


def _has_end(value: itertools.repeat[object]) -> bool:
    with suppress(TypeError):
        return operator.length_hint(value, -1) >= 0
    return False


def _find_place(file: Any) -> Any:  # whatever has tell and seek: files, mmap; a text file's place is opaque
    """Return the place in an open file; None where it has none, or cannot seek."""
    with suppress(Exception):  # a pipe, or a text file that is read on by `next`
        return file.tell() if not hasattr(file, "seekable") or file.seekable() else None
    return None


def _remember(value: object, left: list[int]) -> Iterator[_Step]:
    """Yield what puts back the state of one object; nothing for an object without one.

    Args:
        value: the object.
        left: how many items may still be remembered, counted down.
    """
    import numpy as np

    if isinstance(value, random.Random):
        with suppress(NotImplementedError):  # the generator of the operating system has no state
            yield partial(value.setstate, value.getstate())
    elif isinstance(value, np.random.Generator):
        yield partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    elif isinstance(value, np.random.BitGenerator):
        yield partial(setattr, value, "state", value.state)
    elif isinstance(value, np.random.RandomState):
        yield partial(value.set_state, value.get_state(legacy=False))
    elif (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Generator):
        yield partial(value.set_state, value.get_state())
    elif isinstance(value, CellType):
        yield partial(_put_back_cell, value, _content_of(value))
    elif isinstance(value, FunctionType) and is_own_code(value):
        names = global_names(value.__code__)[1]
        yield partial(
            _put_back_some, value.__globals__, {name: value.__globals__.get(name, _MISSING) for name in names}
        )
    elif isinstance(value, type):
        if is_own_code(value):
            held = {name: item for name, item in vars(value).items() if not _is_fixed(name)}
            yield partial(_put_back_attributes, value, held)
    elif isinstance(value, (io.IOBase, mmap.mmap)):
        if (place := _find_place(value)) is not None:
            yield partial(value.seek, place)
    elif (step := _remember_items(value, left)) is not None:
        yield step
    if not isinstance(value, type) and isinstance(settings := getattr(value, "__dict__", None), dict):
        yield partial(_put_back, settings, dict(settings))
    if slots := [member for kind in type(value).__mro__ if "__slots__" in vars(kind) for member in members_of(kind)]:
        yield partial(_put_back_slots, value, [(member, _slot(member, value)) for member in slots])


def _remember_items(value: object, left: list[int]) -> _Step | None:
    """Return what puts back the items of a container, array or tensor; None for what is none or has too many."""
    import numpy as np

    torch = sys.modules.get("torch")  # without it there are no tensors
    kinds = (list, dict, set, deque, bytearray, array.array)
    if torch is not None and isinstance(value, torch.Tensor):
        size = (
            value.numel()
            if type(value) is torch.Tensor and value.layout is torch.strided and not value.is_meta
            else None
        )
    elif isinstance(value, np.ndarray):
        size = value.size if value.flags.writeable and not isinstance(value, np.memmap) else None
    else:
        size = len(value) if isinstance(value, kinds) else ctypes.sizeof(value) if isinstance(value, _CTYPES) else None
    if size is None or size > left[0]:
        return None
    left[0] -= size
    if torch is not None and isinstance(value, torch.Tensor):
        return partial(_put_back_tensor, value, value.detach().clone())
    if isinstance(value, np.ndarray):
        return partial(_put_back_array, value, value.copy())
    if isinstance(value, dict):
        return partial(_put_back_entries, value, dict(value))
    if isinstance(value, set):
        slots = (set.__sizeof__(value) - set.__sizeof__(set())) // _SLOT_BYTES
        return partial(_put_back_set, value, list(value), slots)
    if isinstance(value, (list, deque)):
        return partial(_put_back_items, value, list(value))
    if isinstance(value, (bytearray, array.array)):
        return partial(operator.setitem, value, slice(None), value[:])
    address = ctypes.addressof(cast("ctypes.Structure", value))
    return partial(ctypes.memmove, address, ctypes.string_at(address, size), size)


def _put_back(settings: dict[str, object], before: Mapping[str, object]) -> None:
    """Make attributes what they were before, changing only what differs."""
    for name in [name for name in settings if name not in before]:
        del settings[name]
    _put_back_some(settings, before)


def _put_back_some(settings: dict[str, Any], before: Mapping[str, object]) -> None:
    for name, value in before.items():
        if value is _MISSING:
            settings.pop(name, None)
        elif settings.get(name, _MISSING) is not value:
            settings[name] = value


def _put_back_entries(entries: dict[Any, Any], before: dict[Any, Any]) -> None:
    same_order = len(entries) == len(before) and all(map(operator.is_, entries, before))
    if not same_order or not all(map(operator.is_, entries.values(), before.values())):
        entries.clear()
        for key, value in before.items():
            entries[key] = value


def _put_back_items(items: list[object] | deque[object], before: list[object]) -> None:
    if len(items) != len(before) or not all(map(operator.is_, items, before)):
        items.clear()
        items.extend(before)


def _put_back_set(items: set[object], before: list[object], slots: int) -> None:
    """Put back the items in a table of as many slots, which gives them in the same order unless hashes collide."""
    if len(items) == len(before) and all(map(operator.is_, items, before)):
        return
    last = 1 << (len(before) + slots).bit_length()
    items.clear()
    items.update(range(last))
    for number in range(last - 1):
        items.discard(number)
    items.pop()  # the last slot: the next `pop` begins at the first
    items.clear()
    room = [object() for _ in range(slots // 2 - 1 - len(before))]
    items.update(dict.fromkeys(before[: max(slots // 2 - 1, 0)] + room))  # a dict makes room for all its keys at once
    items.difference_update(room)
    items.update(before)


def _put_back_tensor(tensor: torch.Tensor, before: torch.Tensor) -> None:
    import torch

    with torch.no_grad():
        if tensor.shape != before.shape:
            tensor.data = before
        elif not torch.equal(tensor, before):
            tensor.copy_(before)


def _put_back_array(values: IntArray, before: IntArray) -> None:
    if values.shape != before.shape:
        values.resize(before.shape, refcheck=False)
    values[...] = before


def _content_of(cell: CellType) -> object:
    with suppress(ValueError):
        return cell.cell_contents
    return _MISSING


def _put_back_cell(cell: CellType, before: object) -> None:
    if before is _MISSING:
        del cell.cell_contents
    elif cell.cell_contents is not before:
        cell.cell_contents = before


def _slot(member: MemberDescriptorType, owner: object) -> object:
    with suppress(AttributeError):
        return member.__get__(owner)
    return _MISSING


def _put_back_slots(owner: object, before: Sequence[tuple[MemberDescriptorType, object]]) -> None:
    for member, value in before:
        now = _slot(member, owner)
        if value is _MISSING and now is not _MISSING:
            member.__delete__(owner)
        elif value is not now:
            member.__set__(owner, value)


def _put_back_attributes(kind: type, before: Mapping[str, object]) -> None:
    for name in [name for name in vars(kind) if name not in before and not _is_fixed(name)]:
        delattr(kind, name)
    for name, value in before.items():
        if vars(kind).get(name, _MISSING) is not value:
            setattr(kind, name, value)


def _is_fixed(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")
