"""The bytes behind the tokens of byte-level and SentencePiece vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache


@cache
def byte_alphabet() -> Mapping[str, int]:
    """Return the byte that each character of a byte-level token stands for (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(other)}


def read_byte_level(token: str) -> bytes | None:
    """Return the bytes of a byte-level token; None for one with a character outside the alphabet."""
    known: Callable[[str], int | None] = byte_alphabet().get
    found = [known(char) for char in token]
    return None if None in found else bytes(byte for byte in found if byte is not None)


def read_sentencepiece(token: str) -> bytes | None:
    """Return the bytes of a SentencePiece token, in which U+2581 is a space and `<0x0A>` a byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()
