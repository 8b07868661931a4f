"""The bytes of a tokenizer's tokens, which show where each token of a text stands without asking for offsets."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from llama_padfix.tokens.byte_level import read_byte_level, read_sentencepiece
from llama_padfix.tokens.offsets import EncodedText, StartEnd, join_spans

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike


class _Pieces(dict[int, bytes]):
    """The bytes of each token by id, read when it is first asked for; empty for one that cannot be read."""

    def __init__(self, tokenizer: TokenizerLike, read: Callable[[str], bytes | None]) -> None:
        added = tokenizer.added_tokens_decoder.items()
        super().__init__((token_id, token.content.encode()) for token_id, token in added)
        self._tokenizer, self._read = tokenizer, read

    def __missing__(self, token_id: int) -> bytes:
        [token] = self._tokenizer.convert_ids_to_tokens([token_id])
        piece = self[token_id] = (None if token is None else self._read(token)) or b""
        return piece


class TokenBytes:
    """Finds the tokens of a text by their bytes: a token begins where those before it end.

    Added tokens are read once: make a new one when they change.
    """

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tables = [_Pieces(tokenizer, read) for read in (read_byte_level, read_sentencepiece)]

    def place(self, ids: list[int], text: str, spans: Sequence[StartEnd]) -> EncodedText | None:
        """Return which tokens lie inside each span, as `place_spans` does.

        Args:
            ids: The tokens of the text.
            text: The text.
            spans: Ranges of characters, disjoint and in order.

        Returns:
            None where the bytes of all tokens, joined, are not those of the text.
        """
        encoded = text.encode()
        ends = next((found for table in self._tables if (found := _find_ends(table, ids, encoded)) is not None), None)
        if ends is None:
            return None
        edges = {edge: edge for span in spans for edge in span}
        if len(encoded) != len(text):
            position = size = 0
            for edge in sorted(edges):
                size += len(text[position:edge].encode())
                position = edge
                edges[edge] = size
        places: list[StartEnd] = []
        for start, end in join_spans(spans):
            first = bisect_left(ends, edges[start]) + 1 if start else 0
            places.append((first, bisect_right(ends, edges[end], min(first, len(ends)))))
        return EncodedText(ids, places, [bisect_right(ends, edges[end]) for _, end in spans])


def _find_ends(table: _Pieces, ids: Sequence[int], encoded: bytes) -> list[int] | None:
    """Return where each token ends among the bytes of a text; None where the tokens do not spell it."""
    pieces = [*map(table.__getitem__, ids)]
    joined = b"".join(pieces)
    if not all(pieces):
        return None
    if joined == encoded:
        return [*accumulate(map(len, pieces))]
    if joined == b" " + encoded:  # SentencePiece may put a space in front of a text
        return [*accumulate(map(len, pieces), initial=-1)][1:]
    return None
