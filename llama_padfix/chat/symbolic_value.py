"""Values beside text that stand for any other, in a template that runs once for all of them; see `symbolic`.

A template can do little with them: anything else ends the run, or raises, as numbers cannot be added to text.
"""

from __future__ import annotations

from typing import Any

from llama_padfix.chat.symbolic_slots import TemplateBranched, Unknown


def _raise(*args: object) -> None:
    raise TemplateBranched("a value")


_branch: Any = _raise  # in place of methods of any type


class _Value(Unknown):
    __slots__ = ()
    kind: type
    __bool__ = __eq__ = __hash__ = __repr__ = __str__ = _branch

    def __getattr__(self, name: str) -> object:
        if hasattr(self.kind, name):
            raise TemplateBranched("a value")
        raise AttributeError(name)


class SymbolicValue(_Value):
    """A number, or a text that the filter `safe` returned: it can be printed, and tested for its type.

    A number (`int`, `float`) can be written as JSON too, which is what is printed.
    """

    __slots__ = ("kind", "text")

    def __init__(self, kind: type, text: str) -> None:
        self.kind = kind
        self.text = text
        """What is printed: a `SymbolicStr`."""


class SymbolicLength(_Value):
    """The length of a text that is not blank: it can be compared with 0, or less."""

    __slots__ = ()
    kind = int
    __hash__ = _branch

    def __bool__(self) -> bool:
        return True

    def __gt__(self, other: object) -> bool:
        return self != other

    def __eq__(self, other: object) -> bool:
        if type(other) is not int or other > 0:
            raise TemplateBranched("the length of a text")
        return False
