"""Text that is safe to print, and text that is valid Unicode."""

from __future__ import annotations

from llama_padfix.core.errors import PadfixError

__all__ = ["is_unicode", "plain", "require_unicode", "shown"]


def is_unicode(text: str) -> bool:
    """Return True if every character of a text can be encoded (no half of a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def require_unicode(text: str) -> None:
    """Raise `PadfixError` for a text that holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PadfixError(
            f"the text holds half of a surrogate pair at character {error.start}, which no tokenizer can encode. "
            "Clean it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from error


def plain(value: object) -> str:
    """Return one line of printable characters: everything else (line breaks, terminal escapes) spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))


def shown(text: str, *, white: bool = True) -> str:
    """Return a text whose every character can be seen and none can act: others are spelled as escapes.

    Line breaks and tabs stay where `white` is false. Bidirectional controls, zero-width characters, terminal
    escapes, line separators and halves of surrogate pairs are all not printable.
    """
    keep = "" if white else "\n\t"
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)
