"""Tokens as readable pieces of text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_padfix.doctor.facts import Facts
from llama_padfix.tokens.byte_level import read_byte_level

__all__ = ["Piece", "join_characters", "read_pieces"]
_LONGEST_CHARACTER = 32  # tokens that are tried together where one ends inside a character
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's name of a byte


@dataclass(frozen=True)
class Piece:
    """One token of the vocabulary: its text, or its bytes where they are no whole characters.

    `is_special` tells a control token, `is_known` whether the vocabulary has the id at all.
    """

    text: str
    part: bytes = b""
    is_special: bool = False
    is_known: bool = True


def read_pieces(tokenizer: Any, facts: Facts, token_ids: Iterable[int]) -> dict[int, Piece]:
    """Return what each of the ids reads, one at a time."""
    tokens = {token_id: token for token, token_id in facts.vocabulary.items()}
    special = {token_id: token for token, token_id in facts.special_ids.items()}
    added = {int(token_id): str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    splits_bytes = _splits_bytes(tokenizer)
    pieces = {}
    for token_id in token_ids:
        if token_id in special or token_id in added:
            text = special[token_id] if token_id in special else added[token_id]
            pieces[token_id] = Piece(text, is_special=token_id in special)
        elif token_id in tokens:
            pieces[token_id] = _read_piece(tokens[token_id], splits_bytes)
        else:
            pieces[token_id] = Piece(f"[id {token_id}]", is_known=False)
    return pieces


def _read_piece(token: Any, splits_bytes: bool) -> Piece:
    data: bytes | None = None
    if isinstance(token, bytes):
        data = token
    elif splits_bytes:
        data = read_byte_level(token)
    elif match := _BYTE_TOKEN.fullmatch(token):
        data = bytes.fromhex(match[1])
    if data is None:
        return Piece(str(token).replace("\u2581", " "))  # SentencePiece's space
    try:
        return Piece(data.decode("utf-8"))
    except UnicodeDecodeError:
        return Piece("".join(f"\\x{byte:02x}" for byte in data), part=data)


def _splits_bytes(tokenizer: Any) -> bool:
    """Tell a byte-level vocabulary by what it makes of the letter that stands for a space."""
    try:
        return bool(tokenizer.convert_tokens_to_string(["Ġ"]) == " ")
    except Exception:  # a tokenizer of somebody's own may refuse a token that it does not have
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
