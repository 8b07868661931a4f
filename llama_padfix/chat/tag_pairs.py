"""Tags that open and close a block of a text: `<call>` and `</call>`, `<|call>` and `<call|>`, `[R]` and `[/R]`."""

from __future__ import annotations

import re
from itertools import pairwise

TAG = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,30}\]")
is_closing = re.compile(r"[<\[]\|?/.*|<[^|/].*\|>").fullmatch


def is_pair(opening: str, closing: str) -> bool:
    """Return True if one tag closes what the other opens."""
    return not is_closing(opening) and bool(is_closing(closing)) and _name(opening) == _name(closing)


def cut_empty_block(text: str) -> str:
    r"""Return what stands in front of the first block that holds nothing: `<think>\n\n</think>`."""
    for one, two in pairwise(TAG.finditer(text)):
        if is_pair(one.group(), two.group()) and not text[one.end() : two.start()].strip():
            return text[: one.start()]
    return text


def _name(tag: str) -> str:
    """Return the word of a tag: `call` of `<call>`, `</call>`, `<|call>` and `[/call]`."""
    return "".join(char for char in tag if char.isalnum() or char == "_")
