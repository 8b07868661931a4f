"""Printable text and valid Unicode."""

from __future__ import annotations

import pytest

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import is_unicode, printable, require_unicode


def test_printable_spells_what_does_not_show() -> None:
    assert printable("a\nb\x1b\u202e\ud800é") == "a\\nb\\x1b\\u202e\\ud800é"
    assert printable("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"
    assert printable(ValueError("a\nb")) == "a\\nb"


@pytest.mark.parametrize(("text", "start"), [("ab\ud800c", 2), ("😀\udc00", 1)])
def test_half_of_a_surrogate_pair_is_named_by_its_place(text: str, start: int) -> None:
    assert not is_unicode(text)
    with pytest.raises(PadfixError, match=f"at character {start},"):
        require_unicode(text)


def test_whole_characters_pass() -> None:
    assert is_unicode("é😀")
    require_unicode("é😀")
