"""Added tokens found in a text as `tokenizers` finds them: the leftmost first, of several the longest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llama_padfix.tokens.cached.pattern import UnreadPatternError

if TYPE_CHECKING:
    import tokenizers

_LONGEST = 200  # bytes of a token: the pattern nests that deep


class AddedTokens:
    """The added tokens of a backend, as patterns over UTF-8.

    Those that are read before the normalizer come first; the others are searched in what is left.

    Raises:
        UnreadPatternError: Some tokens depend on the text around them.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        tokens = read_added_tokens(backend)
        if not all(token.content and len(token.content.encode()) <= _LONGEST for token in tokens):
            raise UnreadPatternError("an added token is empty or long")
        first = [token.content for token in tokens if not token.normalized]
        second = [token.content for token in tokens if token.normalized]
        normalizer = backend.normalizer
        forms = [form for name in second for form in (name, name.replace("\u2581", " "))]  # which may become the mark
        if normalizer is not None and any(normalizer.normalize_str(form) != form for form in forms):
            raise UnreadPatternError("an added token is changed by the normalizer")
        self._patterns = [_compile(names) for names in (first, second) if names]
        self._text: frozenset[bytes] = frozenset()
        if backend.encode_special_tokens:  # a special token is found, then read as text
            special = [token.content for token in tokens if token.special]
            others = [token.content for token in tokens if not token.special]
            if any(_overlap(name, other) for name in special for other in others):
                raise UnreadPatternError("an added token overlaps a special one that is text")
            self._text = frozenset(name.encode() for name in special)

    def find(self, text: bytes) -> list[tuple[int, int]]:
        """Return the (start, end) bytes of each added token, in no order."""
        if len(self._patterns) == 1 and not self._text:
            return [match.span() for match in self._patterns[0].finditer(text)]
        return [*self._find(text, 0, len(text), self._patterns)]

    def _find(
        self, text: bytes, start: int, end: int, patterns: Sequence[re.Pattern[bytes]]
    ) -> Iterator[tuple[int, int]]:
        if not patterns:
            return
        for match in patterns[0].finditer(text, start, end):
            if match.group() in self._text:
                continue
            first, last = match.span()
            yield first, last
            if patterns[1:]:
                yield from self._find(text, start, first, patterns[1:])
                start = last
        if patterns[1:]:
            yield from self._find(text, start, end, patterns[1:])


def read_added_tokens(backend: tokenizers.Tokenizer) -> list[tokenizers.AddedToken]:
    """Return the added tokens of a backend.

    Raises:
        UnreadPatternError: Some depend on the text around them.
    """
    tokens = list(backend.get_added_tokens_decoder().values())
    if any(token.single_word or token.lstrip or token.rstrip for token in tokens):
        raise UnreadPatternError("an added token reaches over the white space beside it, or is a word of its own")
    return tokens


def find_parting(backend: tokenizers.Tokenizer) -> tuple[str, int] | None:
    """Return an added token, with its id, that parts any two texts that do not spell it; None without one.

    It is cut out before the normalizer, which makes no text into it. No added token is longer, or begins before it
    and reaches into it, because its first character stands in none but as the first.

    Raises:
        UnreadPatternError: Some tokens depend on the text around them.
    """
    names = {token.content for token in read_added_tokens(backend)}
    inner = {character for name in names for character in name[1:]}
    for number, token in backend.get_added_tokens_decoder().items():
        name = token.content
        is_text = token.normalized or (token.special and backend.encode_special_tokens) or "\u2581" in name
        if name and not is_text and name[0] not in inner and sum(other.startswith(name) for other in names) == 1:
            return name, number
    return None


def _overlap(special: str, other: str) -> bool:
    """Return True if the other token begins within the special one."""
    ends = (special[place:] for place in range(1, len(special)))
    return other in special or any(other.startswith(end) for end in ends)


def _compile(names: Sequence[str]) -> re.Pattern[bytes]:
    """Return a pattern of all names, written as a tree of their bytes, so that it takes the longest in one walk."""
    tree: dict[bytes, object] = {}
    for name in names:
        node = tree
        for byte in name.encode():
            node = node.setdefault(bytes([byte]), {})  # type: ignore[assignment]
        node[b""] = {}
    return re.compile(_write(tree), re.DOTALL)


def _write(node: dict[bytes, object]) -> bytes:
    branches = [re.escape(byte) + _write(below) for byte, below in node.items() if byte]  # type: ignore[arg-type]
    if not branches:
        return b""
    written = branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"
    return b"(?:" + written + b")?" if b"" in node else written
