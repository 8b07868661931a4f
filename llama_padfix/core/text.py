"""Text that is safe to print, and text that is valid Unicode."""

from __future__ import annotations

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
