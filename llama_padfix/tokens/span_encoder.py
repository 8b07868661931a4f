"""Rendered texts to ids and the tokens of their spans, many of them by an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.calls import encode_raw
from llama_padfix.tokens.offsets import EncodedText, StartEnd, encode_spans, require_fast
from llama_padfix.tokens.token_bytes import TokenBytes

if TYPE_CHECKING:
    from llama_padfix.core.types import IdArray, LongArray, TokenizerLike

TextSpans = tuple[str, Sequence[StartEnd]]
"""A text, and its spans of characters, disjoint and in order."""

_MANY = 4  # texts from which an engine encodes them; fewer, such as those that prove a batch encoder, it does not


class SpanEncoder:
    """Encodes texts, with the tokens inside their spans.

    `encode_texts`, if given, makes the ids of many texts. The first text is encoded by the tokenizer too; where the
    ids differ, `encode_texts` is dropped. A token's place is counted from the bytes of those before it, and read from
    the tokenizer's offsets where the bytes of all tokens are not those of the text.
    """

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self.tokenizer = tokenizer
        self.encode_texts: Callable[[Sequence[str]], tuple[IdArray, LongArray]] | None = None
        self._token_bytes: TokenBytes | None = None

    def encode(self, text: str, spans: Sequence[StartEnd]) -> EncodedText:
        """Encode one text by the tokenizer; see `encode_spans`."""
        return next(encode_spans(self.tokenizer, [text], [spans]))

    def encode_all(self, texts: Sequence[TextSpans]) -> list[EncodedText]:
        """Encode texts together; none of them where the tokens of one cannot be placed.

        Raises:
            PadfixError: The tokenizer has no offsets.
        """
        if not texts:
            return []
        require_fast(self.tokenizer)
        found = self._encode_quickly(texts) if len(texts) >= _MANY else [None] * len(texts)
        missing = [texts[place] for place, one in enumerate(found) if one is None]
        try:
            exact = [*encode_spans(self.tokenizer, [text for text, _ in missing], [spans for _, spans in missing])]
        except PadfixError:
            return []
        rest = iter(exact)
        return [one or next(rest) for one in found]

    def _encode_quickly(self, texts: Sequence[TextSpans]) -> Sequence[EncodedText | None]:
        if self.encode_texts is None:
            return [None] * len(texts)
        flat, lengths = self.encode_texts([text for text, _ in texts])
        ids, bounds = flat.tolist(), [0, *lengths.cumsum().tolist()]
        if self._token_bytes is None:
            if encode_raw(self.tokenizer, texts[0][0]) != ids[: bounds[1]]:
                self.encode_texts = None
                return [None] * len(texts)
            self._token_bytes = TokenBytes(self.tokenizer)
        place = self._token_bytes.place
        return [place(ids[a:b], text, spans) for (text, spans), (a, b) in zip(texts, pairwise(bounds), strict=True)]
