"""Pad ids that a collate function keeps: in arguments, closures, defaults and attributes, each with what sets it."""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from llama_padfix.doctor.observe.copies import COPIES, is_frozen
from llama_padfix.doctor.observe.loader import is_loader, parts_of, replace_collator
from llama_padfix.doctor.observe.reachable import global_names, is_leaf, is_own_code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama_padfix.doctor.facts import Facts

_NAMED = re.compile(r"_*pad(ding)?(_?token)?(_?(id|idx|index|value))?", re.IGNORECASE)
_MOST = 500  # objects that are looked at
_Set = Callable[[Any], object]


@dataclass(frozen=True)
class HeldId:
    """A number that is called a pad id, the place of it, and what puts another one there."""

    where: str
    value: int
    set_to: _Set | None
    """None where only its line of code can be changed."""

    def put(self, value: object) -> None:
        """Put another id there."""
        assert self.set_to is not None  # else it is no target of a change
        self.set_to(value)


def find_held_ids(roots: Mapping[str, object], pad_id: int | None = None) -> Iterator[HeldId]:
    """Yield the pad ids that are reached from collate functions or dataloaders, by name; nothing is called.

    Args:
        roots: by name, collators or the dataloaders that hold them.
        pad_id: the tokenizer's; a function of the user's own that has this number in its code keeps it, too.
    """
    waiting: deque[tuple[str, object, _Set | None]] = deque()
    for name, root in roots.items():
        if is_loader(root):
            waiting.append((f"{name}.collate_fn", parts_of(root).get("collate_fn"), partial(replace_collator, root)))
        else:
            waiting.append((name, root, None))
    seen: dict[int, object] = {}
    while waiting and len(seen) < _MOST:
        where, value, replace_whole = waiting.popleft()
        if id(value) in seen or (is_leaf(value) and not isinstance(value, dict)):
            continue
        seen[id(value)] = value
        for step, name, held, set_to in _entries(value, replace_whole, pad_id):
            if type(held) is int and _NAMED.fullmatch(name):
                yield HeldId(where + step, held, set_to)
            elif not isinstance(held, (str, bytes, int, float, type(None))):
                waiting.append((where + step, held, set_to if is_dataclass(held) else None))


def add_held_ids(facts: Facts, roots: Mapping[str, object]) -> Facts:
    """Return the facts with the pad ids that collate functions keep, but for those of `copies`."""
    held = [each for each in find_held_ids(roots, facts.pad_token_id) if each.where not in COPIES]
    return replace(facts, held_ids=tuple((each.where, each.value, each.set_to is not None) for each in held))


_Entry = tuple[str, str, object, _Set | None]


def _entries(value: object, replace_whole: _Set | None, pad_id: int | None) -> Iterator[_Entry]:
    """Yield what an object holds: the step to it, its name, the value, and what sets it."""
    if isinstance(value, partial):
        yield ".func", "func", value.func, None
        yield from _items(value.keywords, "")
        for place, (name, held) in enumerate(zip(_parameters(value.func), value.args, strict=False)):
            yield f" (argument: {name})", name, held, partial(_set_argument, value, place)
    elif isinstance(value, MethodType):
        yield from (("", "", value.__self__, None), ("", "", value.__func__, None))
    elif isinstance(value, FunctionType):
        if is_own_code(value):
            yield from _entries_of_function(value, pad_id)
    elif isinstance(value, dict):
        yield from _items(value, "")
    elif not isinstance(value, type) and isinstance(attributes := getattr(value, "__dict__", None), dict):
        of_class = [vars(kind) for kind in type(value).__mro__[::-1] if is_own_code(kind)]
        for name, held in {name: held for each in (*of_class, attributes) for name, held in each.items()}.items():
            set_to: _Set | None = partial(setattr, value, name)
            if is_frozen(value):
                set_to = None if replace_whole is None else partial(_set_frozen, value, replace_whole, name)
            yield "" if name == "__call__" else f".{name}", name, held, set_to


def _entries_of_function(function: FunctionType, pad_id: int | None) -> Iterator[_Entry]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # it is not filled yet
            yield f" (closure: {name})", name, cell.cell_contents, partial(setattr, cell, "cell_contents")
    defaults = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for place, (name, held) in enumerate(zip(names, defaults, strict=True)):
        yield f" (default: {name})", name, held, partial(_set_default, function, place)
    yield from _items(function.__kwdefaults__ or {}, "default: ")
    line = f"{code.co_filename}:{code.co_firstlineno}"
    for name in sorted(global_names(code)[0]):
        held = function.__globals__.get(name)
        if isinstance(held, (int, FunctionType)):
            yield f" (global {name} of {line})", name, held, None
    if pad_id in code.co_consts:
        yield f" (in the code of {function.__qualname__}, {line})", "pad_id", pad_id, None


def _items(held: dict[Any, Any], kind: str) -> Iterator[_Entry]:
    for name, value in list(held.items()):
        if isinstance(name, str):
            yield f" ({kind}{name})", name, value, partial(held.__setitem__, name)


def _parameters(function: object) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]  # what is none raises TypeError
    except (TypeError, ValueError):
        return []


def _set_argument(held: partial[object], place: int, value: object) -> None:
    arguments = (*held.args[:place], value, *held.args[place + 1 :])
    held.__setstate__((held.func, arguments, held.keywords, vars(held)))  # type: ignore[attr-defined]  # typeshed lacks it


def _set_default(function: FunctionType, place: int, value: object) -> None:
    defaults = function.__defaults__ or ()
    function.__defaults__ = (*defaults[:place], value, *defaults[place + 1 :])


def _set_frozen(held: Any, replace_whole: _Set, name: str, value: object) -> None:  # any frozen dataclass
    replace_whole(replace(held, **{name: value}))
