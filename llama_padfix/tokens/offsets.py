"""Texts to ids with the characters that each token covers, leaving the tokenizer as it was."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise, starmap
from operator import ge
from typing import TYPE_CHECKING, NamedTuple

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.byte_level import read_byte_level, read_sentencepiece
from llama_padfix.tokens.calls import tokenize_raw

if TYPE_CHECKING:
    import tokenizers

    from llama_padfix.core.types import TokenizerLike

StartEnd = tuple[int, int]
"""A range of characters or of tokens: start inclusive, end exclusive."""

_BATCH = 1000  # rows in one call of the tokenizer
_PROBE = " a  b \n\n c"


class EncodedText(NamedTuple):
    """The ids of a text and the tokens of its spans."""

    ids: list[int]
    places: list[StartEnd]
    """The tokens inside each span; spans that touch are one."""
    ends: list[int]
    """The number of tokens up to the end of each span."""


def encode_spans(
    tokenizer: TokenizerLike, texts: Sequence[str], spans: Sequence[Sequence[StartEnd]]
) -> Iterator[EncodedText]:
    """Yield each text encoded, without additions or truncation, with the tokens that lie inside its spans.

    Where the tokenizer's offsets leave out characters (white space in old releases, or with `trim_offsets`), they are
    counted from the bytes of the tokens.

    Args:
        tokenizer: A fast tokenizer.
        texts: The texts.
        spans: For each text its spans of characters, disjoint and in order; see `place_spans`.

    Raises:
        PadfixError: The offsets cannot be relied on, and the bytes of the tokens are not those of the text.
    """
    if not texts:
        return
    trimmed = is_trimmed(tokenizer)
    for first in range(0, len(texts), _BATCH):
        batch = list(texts[first : first + _BATCH])
        encoding = tokenize_raw(tokenizer, batch)
        for text, text_spans, ids, found in zip(
            batch, spans[first : first + _BATCH], encoding["input_ids"], encoding.encodings, strict=True
        ):
            places = None if trimmed else _place_at_edges(found, text_spans, len(ids))
            if places is None:
                yield place_spans(ids, read_offsets(tokenizer, ids, found.offsets, text, trimmed), text_spans)
            else:
                yield EncodedText(ids, places, [last for _, last in places])


def place_spans(ids: list[int], offsets: Sequence[StartEnd], spans: Sequence[StartEnd]) -> EncodedText:
    """Return which tokens lie inside each span of characters.

    A token that reaches over the edge of a span lies outside; spans that touch count as one.

    Args:
        ids: The tokens of a text.
        offsets: The characters of each token.
        spans: Ranges of characters, disjoint and in order.
    """
    places: list[StartEnd] = []
    for start, end in join_spans(spans):
        first = bisect_left(offsets, (start, -1))
        last = bisect_left(offsets, (end, -1), first)
        while last > first and offsets[last - 1][1] > end:
            last -= 1
        places.append((first, last))
    return EncodedText(ids, places, [bisect_right(offsets, end, key=lambda offset: offset[1]) for _, end in spans])


def join_spans(spans: Sequence[StartEnd]) -> list[StartEnd]:
    """Return spans in which those that touch are one."""
    joined: list[StartEnd] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _place_at_edges(found: tokenizers.Encoding, spans: Sequence[StartEnd], length: int) -> list[StartEnd] | None:
    """Return the tokens of each span, looked up at its two edges; None where no token begins or ends there.

    Reading all offsets of a row from the backend would cost as much as encoding it.
    """
    places: list[StartEnd] = []
    for start, end in spans:
        if start == end:
            return None
        first, last = found.char_to_token(start), found.char_to_token(end - 1)
        if first is None or last is None:
            return None
        left, right = found.token_to_chars(first), found.token_to_chars(last)
        if left is None or right is None or left[0] != start or right[1] != end:
            return None
        for place, before in ((first - 1, True), (last + 1, False)):  # without width it may lie on either side
            if 0 <= place < length:
                outer = found.token_to_chars(place)
                if outer is None or outer[0] >= outer[1] or (outer[1] > start if before else outer[0] < end):
                    return None
        places.append((first, last + 1))
    return places


def is_trimmed(tokenizer: TokenizerLike) -> bool:
    """Return True if the tokenizer's offsets leave out characters."""
    require_fast(tokenizer)
    return not _cover_text(tokenize_raw(tokenizer, [_PROBE]).encodings[0].offsets, len(_PROBE))


def require_fast(tokenizer: TokenizerLike) -> None:
    """Raise `PadfixError` for a tokenizer without offsets, the characters that each token covers."""
    if not getattr(tokenizer, "is_fast", False):
        raise PadfixError(
            f"{type(tokenizer).__name__} does not say which characters a token covers, so the "
            "labels cannot be placed. Load the fast tokenizer: AutoTokenizer.from_pretrained(name, use_fast=True)"
        )


def read_offsets(
    tokenizer: TokenizerLike, ids: Sequence[int], offsets: Sequence[StartEnd], text: str, trimmed: bool
) -> Sequence[StartEnd]:
    """Return the span of characters of each token; counted by its bytes where the offsets cannot be relied on."""
    return _count_bytes(tokenizer, ids, text) if trimmed or any(starmap(ge, offsets)) else offsets


def _cover_text(offsets: Sequence[StartEnd], length: int) -> bool:
    """Return True if tokens lie side by side from the first character to the last, none without width."""
    edges = [(0, 0), *offsets, (length, length)]
    return all(start < end for start, end in offsets) and all(right[0] <= left[1] for left, right in pairwise(edges))


def _count_bytes(tokenizer: TokenizerLike, ids: Sequence[int], text: str) -> list[StartEnd]:
    """Return the characters that each token covers, counted by its bytes.

    The joined bytes of all tokens must be those of the text. Tokens of byte-level BPE can be read, and those of
    SentencePiece with byte fallback.
    """
    encoded = text.encode()
    added = {token_id: token.content.encode() for token_id, token in tokenizer.added_tokens_decoder.items()}
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    for read in (read_byte_level, read_sentencepiece):
        pieces = [
            added[token_id] if token_id in added else read(token) for token_id, token in zip(ids, tokens, strict=True)
        ]
        if any(piece is None for piece in pieces):
            continue
        joined = b"".join(piece or b"" for piece in pieces)
        for prefix in (b"", b" "):  # SentencePiece may put a space in front of a text
            if joined == prefix + encoded and all(pieces):
                return _to_characters([len(piece or b"") for piece in pieces], len(prefix), text)
    raise PadfixError(
        "The tokenizer does not say which characters its tokens cover (offsets without width, or without white "
        "space), and its tokens do not spell the text. Update it: pip install -U tokenizers transformers"
    )


def _to_characters(lengths: Sequence[int], skipped: int, text: str) -> list[StartEnd]:
    """Turn the lengths of tokens in bytes, the first `skipped` bytes not the text's, into ranges of characters."""
    places = range(len(text)) if text.isascii() else [n for n, char in enumerate(text) for _ in char.encode()]
    offsets: list[StartEnd] = []
    position = -skipped
    for length in lengths:
        end = position + length
        left = places[max(position, 0)] if max(position, 0) < len(places) else len(text)
        offsets.append((left, places[end - 1] + 1 if end > 0 else 0))
        position = end
    return offsets
