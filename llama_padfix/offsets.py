"""Texts to ids with the characters that each token covers, leaving the tokenizer as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise, starmap
from operator import ge
from typing import Any

from llama_padfix.observe import find_control_text
from llama_padfix.records import PadfixError

__all__ = ["Encoded", "encode_around", "encode_texts"]

Encoded = tuple[list[int], list[tuple[int, int]]]
"""The ids of a text and the (start, end) characters that each token covers."""

_BATCH = 1000  # rows in one call of the tokenizer
_PROBE = " a  b \n\n c"


def encode_texts(tokenizer: Any, texts: Sequence[str], *, split_special_tokens: bool = False) -> Iterator[Encoded]:
    """Yield the ids and offsets of each text, nothing added and nothing cut.

    With `split_special_tokens` a special token in a text is encoded as the text that it is. Where the tokenizer
    gives offsets that leave out characters (white space in old releases, or with `trim_offsets`), they are counted
    from the tokens' own bytes. Raises `PadfixError` where those are not the text's.
    """
    if not texts:
        return
    if not getattr(tokenizer, "is_fast", False):
        raise PadfixError(
            f"{type(tokenizer).__name__} does not say which characters a token covers, so the "
            "labels cannot be placed. Load the fast tokenizer: AutoTokenizer.from_pretrained(name, use_fast=True)"
        )
    trimmed = not _tiles(_encode(tokenizer, [_PROBE], split_special_tokens)["offset_mapping"][0], len(_PROBE))
    for first in range(0, len(texts), _BATCH):
        batch = list(texts[first : first + _BATCH])
        encoding = _encode(tokenizer, batch, split_special_tokens)
        for text, ids, offsets in zip(batch, encoding["input_ids"], encoding["offset_mapping"], strict=True):
            if trimmed or any(starmap(ge, offsets)):
                yield ids, _count_bytes(tokenizer, ids, text)
            else:
                yield ids, offsets


def _encode(tokenizer: Any, texts: list[str], split_special_tokens: bool) -> Any:
    return tokenizer(
        texts,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=split_special_tokens,
        verbose=False,  # a warning on a long text is also written into the tokenizer
    )


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


def encode_around(tokenizer: Any, text: str, spelled: Sequence[tuple[int, int]], controls: tuple[str, ...]) -> Encoded:
    """Return the ids and offsets of a text cut at its control tokens: what lies between is text, whatever it spells.

    `spelled` are the (start, end) characters that only look like one of the `controls`.
    """
    masked, last = [], 0
    for start, end in spelled:
        masked += [text[last:start], "\0" * (end - start)]
        last = end
    found = find_control_text("".join([*masked, text[last:]]), controls)
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    position = 0
    for start, end, _ in [*found, (len(text), len(text), "")]:
        for left, right, as_text in ((position, start, True), (start, end, False)):
            if left < right:
                [(more_ids, more)] = encode_texts(tokenizer, [text[left:right]], split_special_tokens=as_text)
                ids += more_ids
                offsets += [(begin + left, until + left) for begin, until in more]
        position = end
    return ids, offsets
