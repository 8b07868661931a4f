"""Where a run keeps its tokenizers: attributes, arguments and closures are followed, and nothing is called."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import describe
from llama_padfix.doctor.facts import Facts, OtherTokenizer
from llama_padfix.doctor.observe.reachable import WIDE, global_names, is_leaf, is_own_code, members_of

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike

_MOST = 4_000  # objects that are looked at
_CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_FLAT = (str, bytes, int, float, complex, ModuleType, CodeType)
# Names for the tokenizer of another model than the one that is trained.
_OF_ANOTHER_MODEL = re.compile(r"reward|teacher|judge|embed|draft|ref_|reference|_ref\b")


_NOT_FOUND = (
    "No tokenizer was given or found, and no check that needs one ran. Pass it: diagnose(..., tokenizer=tokenizer)"
)


@dataclass(frozen=True)
class FoundTokenizer:
    """A tokenizer and the place in which it was found."""

    where: str
    tokenizer: TokenizerLike


@dataclass(frozen=True)
class KnownTokenizers:
    """The tokenizer that is observed, where it was found, and what else was found beside it."""

    tokenizer: TokenizerLike | None = None
    where: str = ""
    found: tuple[FoundTokenizer, ...] = ()

    def add_to(self, facts: Facts) -> Facts:
        """Return the facts with the place of the tokenizer, and with those that differ from it."""
        if self.tokenizer is None:
            return replace(facts, notes=(*facts.notes, _NOT_FOUND))
        others = (compare_tokenizers(self.tokenizer, each, facts.vocabulary) for each in self.found)
        notes = (*facts.notes, f"The tokenizer is {self.where}.") if self.where else facts.notes
        differing = tuple(other for other in others if other is not None)
        return replace(facts, tokenizer_where=self.where, other_tokenizers=differing, notes=notes)


def choose_tokenizer(given: TokenizerLike | None, *roots: tuple[str, object]) -> KnownTokenizers:
    """Return the tokenizer that was given, or else the first that is found from the roots, one after the other."""
    found: dict[int, FoundTokenizer] = {}
    for root in roots:
        for each in search_tokenizers(root):
            found.setdefault(id(each.tokenizer), each)
    everything = tuple(found.values())
    if given is not None or not everything:
        return KnownTokenizers(given, "", everything)
    return KnownTokenizers(everything[0].tokenizer, everything[0].where, everything)


def search_tokenizers(*roots: tuple[str, object]) -> list[FoundTokenizer]:
    """Return the tokenizers that are reached from the roots, the nearest first, each once.

    At most 4,000 objects are looked at. Followed are attributes and `__slots__`, items, the arguments of a
    `functools.partial`, the owner of a bound method, closures and defaults of functions, and of the user's own
    functions and classes the globals that they read. Left out is what is named as another model's: `reward_...`,
    `teacher_...`.

    Args:
        *roots: objects with the names that their places begin with.
    """
    found: dict[int, FoundTokenizer] = {}
    seen: dict[int, object] = {}
    waiting = deque(roots)
    while waiting and len(seen) < _MOST:
        where, value = waiting.popleft()
        if value is None or isinstance(value, _FLAT) or id(value) in seen or _OF_ANOTHER_MODEL.search(where):
            continue
        seen[id(value)] = value  # held, so that no other object gets its id
        if is_tokenizer(value):
            found[id(value)] = FoundTokenizer(where, value)  # type: ignore[arg-type]  # what has its methods
        else:
            with suppress(RuntimeError):  # another thread changes the container meanwhile
                waiting.extend((where + step, inner) for step, inner in _linked(value))
    return list(found.values())


def is_tokenizer(value: object) -> bool:
    """Return True for a Hugging Face tokenizer, by what its class has: no attribute of the object is asked for."""
    kind = type(value)
    return all(hasattr(kind, name) for name in ("get_vocab", "convert_tokens_to_ids", "apply_chat_template"))


def compare_tokenizers(
    observed: TokenizerLike, other: FoundTokenizer, vocabulary: Mapping[str, int]
) -> OtherTokenizer | None:
    """Return in what another tokenizer differs from the observed one; None where in nothing that a run depends on.

    `vocabulary` is that of the observed one: copying it takes longer than all the rest.
    """
    if other.tokenizer is observed:
        return None
    differences = []
    sizes = len(observed), len(other.tokenizer)
    if sizes[0] != sizes[1]:
        differences.append(("vocabulary", f"{sizes[0]} tokens", f"{sizes[1]} tokens"))
    elif (another := other.tokenizer.get_vocab()) != vocabulary:
        count = len(set(vocabulary.items()) ^ set(another.items())) // 2
        differences.append(("vocabulary", f"{sizes[0]} tokens", f"as many, {count} of them with other ids"))
    for name in ("pad_token", "eos_token", "padding_side"):
        held = str(getattr(observed, name, None)), str(getattr(other.tokenizer, name, None))
        if held[0] != held[1]:
            differences.append((name, *held))
    templates = getattr(observed, "chat_template", None), getattr(other.tokenizer, "chat_template", None)
    if templates[0] != templates[1]:
        sizes_of = [f"{len(held)} characters" if held else "None" for held in templates]
        differences.append(("chat_template", sizes_of[0], sizes_of[1]))
    return OtherTokenizer(other.where, tuple(differences)) if differences else None


def _linked(value: object) -> Iterator[tuple[str, object]]:
    """Yield what an object refers to, each with what is written behind the object's place."""
    container = next((kind for kind in _CONTAINERS if isinstance(value, kind)), None)
    if isinstance(value, dict):  # of a subclass, its own methods are not called
        for key, item in islice(dict.items(value), WIDE):
            yield f"[{describe(key, 40) if type(key) in _FLAT else type(key).__name__}]", item
    elif container is not None:
        for place, item in enumerate(islice(container.__iter__(value), WIDE)):
            yield f"[{place}]", item
    elif isinstance(value, FunctionType):
        yield from _linked_to_function(value)
    elif isinstance(value, MethodType):
        yield from (("", value.__self__), ("", value.__func__))
    elif isinstance(value, type):
        if is_own_code(value):
            yield from ((f".{name}", item) for name, item in vars(value).items())
    elif is_leaf(value):
        yield from _linked_to_leaf(value)
    else:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            yield from ((f".{name}", item) for name, item in list(attributes.items()))
        members = (member for kind in type(value).__mro__ for member in members_of(kind))
        for member in (member for member in members if member.__name__ != "__dict__"):
            with suppress(AttributeError):
                yield f".{member.__name__}", member.__get__(value)
        yield from (("", kind) for kind in type(value).__mro__ if is_own_code(kind))


def _linked_to_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        yield f" (closure: {name})", _content_of(cell)
    defaults = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for name, held in (*zip(names, defaults, strict=True), *(function.__kwdefaults__ or {}).items()):
        yield f" (default: {name})", held
    yield from ((f".{name}", held) for name, held in vars(function).items())
    if is_own_code(function):
        for name in sorted(global_names(code)[0]):
            held = function.__globals__.get(name)
            if not isinstance(held, (dict, list, tuple, set, type)):  # a script's tables may hold other tokenizers
                yield f" (global: {name})", held


def _linked_to_leaf(value: object) -> Iterator[tuple[str, object]]:
    """Yield the tokenizers that a processor or a model holds itself."""
    attributes = getattr(value, "__dict__", None)
    for name, held in list(attributes.items()) if isinstance(attributes, dict) else ():
        if is_tokenizer(held):
            yield f".{name}", held


def _content_of(cell: CellType) -> object:
    with suppress(ValueError):  # it is not filled yet
        return cell.cell_contents
    return None
