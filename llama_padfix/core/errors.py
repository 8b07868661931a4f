"""The library's one error type, and how a user's value is shown in its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

__all__ = ["IGNORE_INDEX", "PadfixError"]

IGNORE_INDEX = -100
"""The label that `torch.nn.functional.cross_entropy` leaves out of the loss (its `ignore_index`)."""


class PadfixError(ValueError):
    """What was seen, why the library stops there, and the one line that mends it."""


def describe(value: Any, limit: int = 80) -> str:
    """Return a short `repr` of a user's value for an error message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
