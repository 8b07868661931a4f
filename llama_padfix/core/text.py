"""Text that is safe to print, text that is valid Unicode, and text that is JSON."""

from __future__ import annotations

import json
from typing import Any

from llama_padfix.core.errors import PadfixError


def printable(value: object, keep: str = "") -> str:
    r"""Return a value as text whose characters all show and none act: others are spelled as escapes.

    Line breaks and tabs, bidirectional controls, zero-width characters, terminal escapes, line separators and halves
    of surrogate pairs are not printable.

    Args:
        value: What to print, by its `str`.
        keep: Characters that stay as they are, such as `"\n\t"`.

    Returns:
        One line of text, where `keep` has no line break.
    """
    text = str(value)
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def parse_json(text: str | bytes) -> Any:  # whatever the text holds
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON, or nested deeper than Python's parser goes.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def is_unicode(text: str) -> bool:
    """Return True if every character of a text can be encoded: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_unicode(text: str) -> None:
    """Raise `PadfixError` for a text that holds half of a surrogate pair."""
    if not is_unicode(text):
        start = next(place for place, char in enumerate(text) if not is_unicode(char))
        raise PadfixError(
            f"the text holds half of a surrogate pair at character {start}, which no tokenizer can encode. "
            "Clean it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        )
