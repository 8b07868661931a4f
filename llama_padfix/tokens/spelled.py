"""Text that spells control tokens, encoded as text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.calls import tokenize_raw
from llama_padfix.tokens.control import find_control_text
from llama_padfix.tokens.offsets import EncodedText, StartEnd, is_trimmed, place_spans, read_offsets, require_fast

# What stands before a piece of text in place of the token that did; private-use characters of no other meaning.
_ANCHOR = "\U0010fffdllama-padfix\U0010fffc"


class TextBackend(NamedTuple):
    """A `tokenizers.Tokenizer` to which some tokens are text; `known` holds the true ids of added tokens it keeps."""

    backend: Any
    known: Mapping[int, int]
    forbidden: frozenset[int]


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
    spelled: Sequence[StartEnd],
    tokens: tuple[str, ...],
    text_backend: TextBackend,
    spans: Sequence[StartEnd],
) -> EncodedText:
    """Return a text encoded as `encode_spans` does, but that what is `spelled` is text, whatever it looks like.

    `spelled` are the (start, end) characters that only look like one of the `tokens`, to which `text_backend` is
    blind. A stretch between two true tokens that holds such characters is encoded by it, all else as ever. Raises
    `PadfixError` where the vocabulary itself makes the token of the text.
    """
    if _ANCHOR in text:
        raise PadfixError("A message holds the private mark of llama-padfix beside control tokens. Remove the mark.")
    trimmed = is_trimmed(tokenizer)
    ids: list[int] = []
    offsets: list[StartEnd] = []

    def add(start: int, end: int, as_text: bool) -> None:
        piece = text[start:end]
        if not piece:
            return
        if as_text:
            more, covered = _encode_as_text(text_backend, piece, start > 0)
        else:
            encoding = tokenize_raw(tokenizer, [piece])
            more, covered = encoding["input_ids"][0], encoding.encodings[0].offsets
        ids.extend(more)
        offsets.extend(
            (left + start, right + start) for left, right in read_offsets(tokenizer, more, covered, piece, trimmed)
        )

    position = 0
    for start, end in _find_stretches(tokenizer, text, spelled, tokens):
        add(position, start, False)
        add(start, end, True)
        position = end
    add(position, len(text), False)
    return place_spans(ids, offsets, spans)


def _find_stretches(
    tokenizer: Any, text: str, spelled: Sequence[StartEnd], tokens: tuple[str, ...]
) -> Iterator[StartEnd]:
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


def _encode_as_text(text_backend: TextBackend, piece: str, behind: bool) -> tuple[list[int], list[StartEnd]]:
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
