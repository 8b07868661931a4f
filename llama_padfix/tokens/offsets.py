"""Texts to ids with the characters that each token covers, leaving the tokenizer as it was."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise, starmap
from operator import ge
from typing import Any, NamedTuple

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.byte_level import read_byte_level, read_sentencepiece
from llama_padfix.tokens.calls import tokenize_raw

StartEnd = tuple[int, int]

_BATCH = 1000  # rows in one call of the tokenizer
_PROBE = " a  b \n\n c"


class EncodedText(NamedTuple):
    """The ids of a text, the (first, last) tokens of its spans, and the number of tokens up to each span's end."""

    ids: list[int]
    places: list[StartEnd]
    ends: list[int]


def encode_spans(tokenizer: Any, texts: Sequence[str], spans: Sequence[Sequence[StartEnd]]) -> Iterator[EncodedText]:
    """Yield each text encoded, with the tokens that lie inside its spans of characters; nothing added, nothing cut.

    The spans of a text are disjoint and in order; see `place_spans`. Where the tokenizer gives offsets that leave out
    characters (white space in old releases, or with `trim_offsets`), they are counted from the tokens' own bytes.
    Raises `PadfixError` where those are not the text's.
    """
    if not texts:
        return
    trimmed = is_trimmed(tokenizer)
    for first in range(0, len(texts), _BATCH):
        batch = list(texts[first : first + _BATCH])
        encoding = tokenize_raw(tokenizer, batch)
        for text, wanted, ids, found in zip(
            batch, spans[first : first + _BATCH], encoding["input_ids"], encoding.encodings, strict=True
        ):
            places = None if trimmed else _place_at_edges(found, wanted, len(ids))
            if places is None:
                yield place_spans(ids, read_offsets(tokenizer, ids, found.offsets, text, trimmed), wanted)
            else:
                yield EncodedText(ids, places, [last for _, last in places])


def place_spans(ids: list[int], offsets: Sequence[StartEnd], spans: Sequence[StartEnd]) -> EncodedText:
    """Return which tokens lie inside each of the spans of characters, which are disjoint and in order.

    `offsets` are the (start, end) characters of each token. A token that reaches over the edge of a span lies outside;
    spans that touch count as one.
    """
    joined: list[StartEnd] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    places: list[StartEnd] = []
    for start, end in joined:
        first = bisect_left(offsets, (start, -1))
        last = bisect_left(offsets, (end, -1), first)
        while last > first and offsets[last - 1][1] > end:
            last -= 1
        places.append((first, last))
    return EncodedText(ids, places, [bisect_right(offsets, end, key=lambda offset: offset[1]) for _, end in spans])


def _place_at_edges(found: Any, spans: Sequence[StartEnd], length: int) -> list[StartEnd] | None:
    """Return the tokens of each span, looked up at its two edges; None where no token's edge is there.

    Reading all offsets of a row out of the backend costs as much as encoding it.
    """
    places: list[StartEnd] = []
    for start, end in spans:
        if start == end:
            return None
        first, last = found.char_to_token(start), found.char_to_token(end - 1)
        if first is None or last is None:
            return None
        inner = (found.token_to_chars(first), found.token_to_chars(last))
        if None in inner or inner[0][0] != start or inner[1][1] != end:
            return None
        for place, before in ((first - 1, True), (last + 1, False)):  # without width it may lie on either side
            if 0 <= place < length:
                outer = found.token_to_chars(place)
                if outer is None or outer[0] >= outer[1] or (outer[1] > start if before else outer[0] < end):
                    return None
        places.append((first, last + 1))
    return places


def is_trimmed(tokenizer: Any) -> bool:
    """Tell whether the tokenizer's offsets leave out characters."""
    require_fast(tokenizer)
    return not _tiles(tokenize_raw(tokenizer, [_PROBE]).encodings[0].offsets, len(_PROBE))


def require_fast(tokenizer: Any) -> None:
    """Raise `PadfixError` for a tokenizer that cannot say which characters a token covers."""
    if not getattr(tokenizer, "is_fast", False):
        raise PadfixError(
            f"{type(tokenizer).__name__} does not say which characters a token covers, so the "
            "labels cannot be placed. Load the fast tokenizer: AutoTokenizer.from_pretrained(name, use_fast=True)"
        )


def read_offsets(
    tokenizer: Any, ids: Sequence[int], offsets: Sequence[StartEnd], text: str, trimmed: bool
) -> Sequence[StartEnd]:
    """Return the span of characters of each token; counted by its bytes where the offsets cannot be relied on."""
    return _count_bytes(tokenizer, ids, text) if trimmed or any(starmap(ge, offsets)) else offsets


def _tiles(offsets: Sequence[tuple[int, int]], length: int) -> bool:
    """Tell whether tokens lie side by side from the first character to the last, none without width."""
    edges = [(0, 0), *offsets, (length, length)]
    return all(start < end for start, end in offsets) and all(right[0] <= left[1] for left, right in pairwise(edges))


def _count_bytes(tokenizer: Any, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """Return the characters that each token covers, by the bytes that it stands for.

    Proven by the bytes of all tokens, which joined must be the text. Tokens of byte-level BPE are read, and those of
    SentencePiece with its byte fallback.
    """
    wanted = text.encode()
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
            if joined == prefix + wanted and all(pieces):
                return _to_characters([len(piece or b"") for piece in pieces], len(prefix), text)
    raise PadfixError(
        "The tokenizer does not say which characters its tokens cover (offsets without width, or without white "
        "space), and its tokens do not spell the text. Update it: pip install -U tokenizers transformers"
    )


def _to_characters(lengths: Sequence[int], skipped: int, text: str) -> list[tuple[int, int]]:
    """Turn the lengths of tokens in bytes, of which the first ones are `skipped`, into (start, end) of characters."""
    places = range(len(text)) if text.isascii() else [n for n, char in enumerate(text) for _ in char.encode()]
    offsets: list[tuple[int, int]] = []
    position = -skipped
    for length in lengths:
        end = position + length
        left = places[max(position, 0)] if max(position, 0) < len(places) else len(text)
        offsets.append((left, places[end - 1] + 1 if end > 0 else 0))
        position = end
    return offsets
