"""Text that spells control tokens, encoded as text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.backend import share_vocabulary
from llama_padfix.tokens.calls import tokenize_raw
from llama_padfix.tokens.control import find_control_text
from llama_padfix.tokens.offsets import EncodedText, StartEnd, is_trimmed, place_spans, read_offsets, require_fast

if TYPE_CHECKING:
    import tokenizers

    from llama_padfix.core.types import TokenizerLike


# Stands for the token in front of a piece of text; private-use characters of no other meaning.
_ANCHOR = "\U0010fffdllama-padfix\U0010fffc"


class TextBackend(NamedTuple):
    """A backend that encodes some of its tokenizer's added tokens as text."""

    backend: tokenizers.Tokenizer
    true_ids: Mapping[int, int]
    """The tokenizer's id of each added token that is kept, by the backend's."""
    forbidden: frozenset[int]
    """The ids of the tokens that are text."""


def make_text_backend(tokenizer: TokenizerLike, tokens: Sequence[str]) -> TextBackend:
    """Return a backend that encodes these added tokens as text; `split_special_tokens` does so for special ones only.

    Raises:
        PadfixError: The tokenizer is not a fast one.
    """
    from tokenizers import AddedToken

    require_fast(tokenizer)
    backend = tokenizer.backend_tokenizer
    copied = share_vocabulary(backend, without=tokens)
    copied.add_special_tokens([AddedToken(_ANCHOR, special=True, normalized=False)])
    ids = {token.content: token_id for token_id, token in backend.get_added_tokens_decoder().items()}
    true_ids = {int(copied.token_to_id(name) or 0): token_id for name, token_id in ids.items() if name not in tokens}
    forbidden = {ids[token] for token in tokens if token in ids} - {tokenizer.unk_token_id}
    return TextBackend(copied, true_ids, frozenset(forbidden))


def encode_around(
    tokenizer: TokenizerLike,
    text: str,
    spelled: Sequence[StartEnd],
    tokens: tuple[str, ...],
    text_backend: TextBackend,
    spans: Sequence[StartEnd],
) -> EncodedText:
    """Encode a text as `encode_spans` does, but spelled control tokens as text.

    Args:
        tokenizer: A fast tokenizer.
        text: A rendered conversation.
        spelled: The (start, end) characters that spell one of the `tokens`, in order.
        tokens: All control tokens and tags.
        text_backend: From `make_text_backend(tokenizer, tokens)`. It encodes the stretches between two true tokens
            that hold a spelled one; the tokenizer encodes everything else.
        spans: The (start, end) characters to find in the ids.

    Raises:
        PadfixError: The vocabulary itself makes the token of the text, or the text holds the anchor.
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
    tokenizer: TokenizerLike, text: str, spelled: Sequence[StartEnd], tokens: tuple[str, ...]
) -> Iterator[StartEnd]:
    """Yield the stretches between true tokens that spell a token, without the white space that belongs to a token."""
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
    """Encode text in which the backend's missing tokens are text, `behind` another token or at the start.

    SentencePiece puts a space before the start of a text, or before each piece, so the anchor stands for that token.
    """
    found = text_backend.backend.encode((_ANCHOR if behind else "") + piece, add_special_tokens=False)
    skipped = 1 if behind else 0
    ids = [text_backend.true_ids.get(token_id, token_id) for token_id in found.ids[skipped:]]
    if not text_backend.forbidden.isdisjoint(ids):
        raise PadfixError(
            "The tokenizer's vocabulary makes a control token of a message's text even where it is read as text. "
            "Remove the control token from the message's content."
        )
    offset = len(_ANCHOR) if behind else 0
    return ids, [(max(left - offset, 0), max(right - offset, 0)) for left, right in found.offsets[skipped:]]
