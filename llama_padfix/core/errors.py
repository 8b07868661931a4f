"""The library's one error type, and how a user's value is shown in its messages."""

from __future__ import annotations

IGNORE_INDEX = -100
"""The label that `torch.nn.functional.cross_entropy` leaves out of the loss (its `ignore_index`)."""


class PadfixError(ValueError):
    """What was seen, why the library stops there, and the one line that fixes it."""


TOO_DEEP = (
    "it is nested deeper than Python's recursion limit allows, or holds itself, so no template can write it out; "
    "drop the row, or pass the deep part as text."
)
"""Why a row that raised `RecursionError` is refused."""


def describe(value: object, limit: int = 80) -> str:
    """Return a short `repr` of a user's value, in one line, for an error message."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deeply to be shown"
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= limit else text[: limit - 3] + "..."
