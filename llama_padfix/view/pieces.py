"""Tokens as readable pieces of text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.doctor.facts import Facts
from llama_padfix.tokens.byte_level import read_byte_level

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike

_LONGEST_CHARACTER = 32  # tokens that are tried together where one ends inside a character
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's name of a byte


@dataclass(frozen=True)
class Piece:
    """The text of one token of the vocabulary."""

    text: str
    part: bytes = b""
    """The bytes of the token, where they are no whole characters."""
    is_special: bool = False
    """Whether it is a control token."""
    is_known: bool = True
    """Whether the vocabulary has the id."""


def read_pieces(tokenizer: TokenizerLike, facts: Facts, token_ids: Iterable[int]) -> dict[int, Piece]:
    """Return the text of each of the ids, one at a time."""
    tokens = {token_id: token for token, token_id in facts.vocabulary.items()}
    special = {token_id: token for token, token_id in facts.special_ids.items()}
    added = {int(token_id): str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    splits_bytes = _splits_bytes(tokenizer)
    pieces = {}
    for token_id in token_ids:
        if token_id in special or token_id in added:
            pieces[token_id] = Piece(special.get(token_id, added.get(token_id, "")), is_special=token_id in special)
        elif token_id in tokens:
            pieces[token_id] = _read_piece(tokens[token_id], splits_bytes)
        else:
            pieces[token_id] = Piece(f"[id {token_id}]", is_known=False)
    return pieces


def _read_piece(token: str | bytes, splits_bytes: bool) -> Piece:
    if isinstance(token, bytes):
        data: bytes | None = token
    elif splits_bytes:
        data = read_byte_level(token)
    else:
        match = _BYTE_TOKEN.fullmatch(token)
        data = bytes.fromhex(match[1]) if match else None
    if data is None:
        return Piece(str(token).replace("\u2581", " "))  # SentencePiece's space
    try:
        return Piece(data.decode("utf-8"))
    except UnicodeDecodeError:
        return Piece("".join(f"\\x{byte:02x}" for byte in data), part=data)


def _splits_bytes(tokenizer: TokenizerLike) -> bool:
    """Return True for a byte-level vocabulary: its letter for a space decodes to a space."""
    try:
        return bool(tokenizer.convert_tokens_to_string(["Ġ"]) == " ")
    except Exception:  # a custom tokenizer may raise for a token that it does not have
        return False


def join_characters(ids: Sequence[int], pieces: Mapping[int, Piece]) -> dict[int, tuple[int, str]]:
    """Return the characters that several tokens make up, by the position of the first."""
    joined: dict[int, tuple[int, str]] = {}
    at = 0
    while at < len(ids):
        data, end = b"", at
        while end < min(len(ids), at + _LONGEST_CHARACTER) and (part := pieces[ids[end]].part):
            data, end = data + part, end + 1
            try:
                joined[at] = (end - at, data.decode("utf-8"))
                break
            except UnicodeDecodeError:
                continue
        at += joined[at][0] if at in joined else 1
    return joined
