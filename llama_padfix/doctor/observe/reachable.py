"""What code reaches from an object: attributes, items, closures, its class, and the globals its functions name."""

from __future__ import annotations

import dis
import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodWrapperType,
    ModuleType,
)

MOST = 20_000
"""Objects that are visited at most."""

WIDE = 100
"""A container with more items probably holds rows: its items are visited last."""

# Large or shared, and unchanged by reading rows: weights, tables, tokenizers, what a run keeps for itself.
_LEAVES = {
    *("Tensor", "ndarray", "array", "DataFrame", "Series", "Table", "Features", "Module", "Optimizer", "LRScheduler"),
    *("PreTrainedTokenizerBase", "ProcessorMixin", "PretrainedConfig", "PreTrainedConfig", "GenerationConfig"),
    *("Accelerator", "CallbackHandler", "TrainerCallback", "TrainingArguments", "TrainerState", "TrainerControl"),
    *("Logger", "PartialState", "GradientState"),
}
# Their classes and functions keep nothing between rows that their objects do not hold.
# A class that a call of `type` makes below an abstract one has the module "abc".
_LIBRARIES = (sys.stdlib_module_names - {"abc"}) | {
    *("accelerate", "datasets", "deepspeed", "dill", "fsspec", "huggingface_hub", "llama_padfix", "multiprocess"),
    *("numpy", "pandas", "peft", "polars", "pyarrow", "safetensors", "scipy", "sklearn", "tokenizers", "torch"),
    *("tqdm", "transformers", "trl", "unsloth", "wandb"),
}
_FLAT = (str, bytes, int, float, complex, ModuleType, CodeType)


def walk(*owners: object) -> Iterator[object]:
    """Yield what is reachable from the owners, the nearest first, each object once.

    The items of a container of more than 100 come after everything else, and not where they are texts or numbers.
    """
    near: deque[object] = deque(owners)
    far: deque[object] = deque()
    seen: dict[int, object] = {}
    while len(seen) < MOST and (near or far):
        value = (near or far).popleft()
        if value is None or isinstance(value, _FLAT) or id(value) in seen:
            continue
        seen[id(value)] = value  # held, so that no other object gets its id
        yield value
        with suppress(RuntimeError):  # another thread changes the container meanwhile
            near.extend(_linked(value))
            items = _items(value)
            if len(items) <= WIDE:
                near.extend(items)
            elif not isinstance(next(iter(items)), _FLAT):
                far.extend(islice(items, MOST))


def filled_cells(function: object) -> Iterator[object]:
    """Yield the values that a function closes over, without cells that are not filled yet."""
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):
            yield cell.cell_contents


def is_own_code(value: type | FunctionType) -> bool:
    """Return True for a class or function of the user, or of a package that is none of the known libraries."""
    return str(value.__module__).partition(".")[0] not in _LIBRARIES


@lru_cache(maxsize=4096)
def global_names(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of globals that code reads, and of those that it binds, in its inner functions too."""
    read, bound = set[str](), set[str]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(step.argval)
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            bound.add(step.argval)
    for inner in (global_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)):
        read |= inner[0]
        bound |= inner[1]
    return frozenset(read), frozenset(bound)


def members_of(kind: type) -> list[MemberDescriptorType]:
    """Return the descriptors of a class's `__slots__`, and of what methods, partials and properties refer to."""
    return [member for member in vars(kind).values() if isinstance(member, MemberDescriptorType)]


def is_leaf(value: object) -> bool:
    """Return True for what is large or shared, and unchanged by reading rows: nothing in it is visited."""
    return not _LEAVES.isdisjoint(base.__name__ for base in type(value).__mro__)


def _items(value: object) -> Collection[object]:
    if is_leaf(value):
        return ()
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple, set, frozenset, deque)) else ()


def _linked(value: object) -> Iterator[object]:
    """Yield what an object refers to, without the items of a container."""
    if isinstance(value, CellType):
        with suppress(ValueError):
            yield value.cell_contents
    elif isinstance(value, type):
        if is_own_code(value):
            yield from (*vars(value).values(), *value.__bases__)
    elif isinstance(value, FunctionType):
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *(value.__closure__ or ()))
        if is_own_code(value):
            yield from (value.__globals__.get(name) for name in global_names(value.__code__)[0])
        yield from vars(value).values()
    elif isinstance(value, (BuiltinMethodType, MethodWrapperType)):
        yield value.__self__
    elif not is_leaf(value):
        yield type(value)
        for member in (member for kind in type(value).__mro__ for member in members_of(kind)):
            with suppress(AttributeError):
                yield member.__get__(value)
        attributes = getattr(value, "__dict__", None)
        yield from list(attributes.values()) if isinstance(attributes, dict) else ()
