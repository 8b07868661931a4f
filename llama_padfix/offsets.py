"""Texts to ids with the characters that each token covers, leaving the tokenizer as it was."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise, starmap
from operator import ge
from typing import Any, NamedTuple

from llama_padfix.observe import call_plainly, find_control_text
from llama_padfix.records import PadfixError

__all__ = [
    "Encoded",
    "TextBackend",
    "encode_around",
    "encode_spans",
    "is_trimmed",
    "make_text_backend",
    "place_spans",
    "require_fast",
]

Span = tuple[int, int]

_BATCH = 1000  # rows in one call of the tokenizer
_PROBE = " a  b \n\n c"
# What stands before a piece of text in place of the token that did; private-use characters of no other meaning.
_ANCHOR = "\U0010fffdllama-padfix\U0010fffc"


class Encoded(NamedTuple):
    """The ids of a text, the (first, last) tokens of its spans, and the number of tokens up to each span's end."""

    ids: list[int]
    places: list[Span]
    ends: list[int]


class TextBackend(NamedTuple):
    """A `tokenizers.Tokenizer` to which some tokens are text; `known` holds the true ids of added tokens it keeps."""

    backend: Any
    known: Mapping[int, int]
    forbidden: frozenset[int]


def encode_spans(tokenizer: Any, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> Iterator[Encoded]:
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
        encoding = call_plainly(tokenizer, batch)
        for text, wanted, ids, found in zip(
            batch, spans[first : first + _BATCH], encoding["input_ids"], encoding.encodings, strict=True
        ):
            places = None if trimmed else _place_at_edges(found, wanted, len(ids))
            if places is None:
                yield place_spans(ids, _read_offsets(tokenizer, ids, found.offsets, text, trimmed), wanted)
            else:
                yield Encoded(ids, places, [last for _, last in places])


def place_spans(ids: list[int], offsets: Sequence[Span], spans: Sequence[Span]) -> Encoded:
    """Return which tokens lie inside each of the spans of characters, which are disjoint and in order.

    `offsets` are the (start, end) characters of each token. A token that reaches over the edge of a span lies outside;
    spans that touch count as one.
    """
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    places: list[Span] = []
    for start, end in joined:
        first = bisect_left(offsets, (start, -1))
        last = bisect_left(offsets, (end, -1), first)
        while last > first and offsets[last - 1][1] > end:
            last -= 1
        places.append((first, last))
    return Encoded(ids, places, [bisect_right(offsets, end, key=lambda offset: offset[1]) for _, end in spans])


def _place_at_edges(found: Any, spans: Sequence[Span], length: int) -> list[Span] | None:
    """Return the tokens of each span, looked up at its two edges; None where no token's edge is there.

    Reading all offsets of a row out of the backend costs as much as encoding it.
    """
    places: list[Span] = []
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
    return not _tiles(call_plainly(tokenizer, [_PROBE]).encodings[0].offsets, len(_PROBE))


def require_fast(tokenizer: Any) -> None:
    """Raise `PadfixError` for a tokenizer that cannot say which characters a token covers."""
    if not getattr(tokenizer, "is_fast", False):
        raise PadfixError(
            f"{type(tokenizer).__name__} does not say which characters a token covers, so the "
            "labels cannot be placed. Load the fast tokenizer: AutoTokenizer.from_pretrained(name, use_fast=True)"
        )


def _read_offsets(
    tokenizer: Any, ids: Sequence[int], offsets: Sequence[Span], text: str, trimmed: bool
) -> Sequence[Span]:
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
    for read in (_read_byte_level, _read_sentencepiece):
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


@cache
def _byte_of() -> Mapping[str, int]:
    """Return the byte that each character of a byte-level token stands for (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(other)}


def _read_byte_level(token: str) -> bytes | None:
    known: Callable[[str], int | None] = _byte_of().get
    found = [known(char) for char in token]
    return None if None in found else bytes(byte for byte in found if byte is not None)


def _read_sentencepiece(token: str) -> bytes | None:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def make_text_backend(tokenizer: Any, tokens: Sequence[str]) -> TextBackend:
    """Return the tokenizer's backend, vocabulary shared, without these added tokens: they are encoded as text.

    `split_special_tokens` does so for special tokens alone. Raises `PadfixError` for a tokenizer without a backend.
    """
    from tokenizers import AddedToken, Tokenizer

    require_fast(tokenizer)
    backend = tokenizer.backend_tokenizer
    bare = Tokenizer(backend.model)
    for name in ("normalizer", "pre_tokenizer"):
        if getattr(backend, name) is not None:
            setattr(bare, name, getattr(backend, name))
    added = sorted(backend.get_added_tokens_decoder().items())
    for special in (False, True):
        kept = [token for _, token in added if token.content not in tokens and token.special is special]
        (bare.add_special_tokens if special else bare.add_tokens)(kept)
    bare.add_special_tokens([AddedToken(_ANCHOR, special=True, normalized=False)])
    true = {token.content: token_id for token_id, token in added}
    known = {int(bare.token_to_id(name) or 0): token_id for name, token_id in true.items() if name not in tokens}
    forbidden = {true[token] for token in tokens if token in true} - {tokenizer.unk_token_id}
    return TextBackend(bare, known, frozenset(forbidden))


def encode_around(
    tokenizer: Any,
    text: str,
    spelled: Sequence[Span],
    tokens: tuple[str, ...],
    text_backend: TextBackend,
    spans: Sequence[Span],
) -> Encoded:
    """Return a text encoded as `encode_spans` does, but that what is `spelled` is text, whatever it looks like.

    `spelled` are the (start, end) characters that only look like one of the `tokens`, to which `text_backend` is
    blind. A stretch between two true tokens that holds such characters is encoded by it, all else as ever. Raises
    `PadfixError` where the vocabulary itself makes the token of the text.
    """
    if _ANCHOR in text:
        raise PadfixError("A message holds the private mark of llama-padfix beside control tokens. Remove the mark.")
    trimmed = is_trimmed(tokenizer)
    ids: list[int] = []
    offsets: list[Span] = []

    def add(start: int, end: int, as_text: bool) -> None:
        piece = text[start:end]
        if not piece:
            return
        if as_text:
            more, covered = _encode_as_text(text_backend, piece, start > 0)
        else:
            encoding = call_plainly(tokenizer, [piece])
            more, covered = encoding["input_ids"][0], encoding.encodings[0].offsets
        ids.extend(more)
        offsets.extend(
            (left + start, right + start) for left, right in _read_offsets(tokenizer, more, covered, piece, trimmed)
        )

    position = 0
    for start, end in _find_stretches(tokenizer, text, spelled, tokens):
        add(position, start, False)
        add(start, end, True)
        position = end
    add(position, len(text), False)
    return place_spans(ids, offsets, spans)


def _find_stretches(tokenizer: Any, text: str, spelled: Sequence[Span], tokens: tuple[str, ...]) -> Iterator[Span]:
    """Yield the stretches between true tokens that spell a token, without the white space that a token takes."""
    masked, last = [], 0
    for start, end in spelled:
        masked += [text[last:start], "\0" * (end - start)]
        last = end
    flags = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    found = find_control_text("".join([*masked, text[last:]]), tokens)
    starts = [start for start, _ in spelled]
    for (_, begin, before), (finish, _, after) in pairwise([(0, 0, ""), *found, (len(text), len(text), "")]):
        if bisect_left(starts, begin) == bisect_left(starts, finish):
            continue
        if before in flags and flags[before].rstrip:
            begin = finish - len(text[begin:finish].lstrip())
        if after in flags and flags[after].lstrip:
            finish = begin + len(text[begin:finish].rstrip())
        yield begin, finish


def _encode_as_text(text_backend: TextBackend, piece: str, behind: bool) -> tuple[list[int], list[Span]]:
    """Encode text in which the backend's missing tokens are text, `behind` another token or as a beginning.

    SentencePiece puts a space before a text's beginning, or before each piece: so the anchor stands for the token.
    """
    found = text_backend.backend.encode((_ANCHOR if behind else "") + piece, add_special_tokens=False)
    skipped = 1 if behind else 0
    ids = [text_backend.known.get(token_id, token_id) for token_id in found.ids[skipped:]]
    if not text_backend.forbidden.isdisjoint(ids):
        raise PadfixError(
            "The tokenizer's vocabulary makes a control token of a message's text even where it is read as text. "
            "Remove the control token from the message's content."
        )
    gone = len(_ANCHOR) if behind else 0
    return ids, [(max(left - gone, 0), max(right - gone, 0)) for left, right in found.offsets[skipped:]]
