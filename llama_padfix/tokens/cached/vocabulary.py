"""Where a text without a splitting pattern can be cut: between characters that are neighbors in no token."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING

from llama_padfix.tokens.cached.added import read_added_tokens
from llama_padfix.tokens.cached.pattern import UnreadPatternError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import tokenizers

    from llama_padfix.core.types import BoolArray, IntArray

_CHARACTERS = 0x10000  # those above are never cut
_INDENTED = re.compile("\u2581\u2581[^\u2581\0]")
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_NONE, _OTHER, _LINE, _SPACE = 0, 1, 2, 3
_KINDS = 15
_GROUPS = {"L": 4, "M": 4, "N": 5, "P": 6, "S": 7}  # by the first letter of the category


def find_cuts(backend: tokenizers.Tokenizer) -> tuple[BoolArray, IntArray, bool]:
    """Return between which two kinds of characters a text can be cut, and the kind of each character up to U+FFFF.

    The last item is whether no token goes on with another character behind two spaces.

    A merge makes a token of the vocabulary. So none joins two characters that are neighbors in no token, nor does an
    added token hold them. Bytes stand for a character that is no token, so that there are no unknown ones to be
    joined. Spaces are U+2581.

    Raises:
        UnreadPatternError: The pre-tokenizer or the model is not understood.
    """
    pre_tokenizer, model = backend.pre_tokenizer, backend.model
    part = json.loads(pre_tokenizer.__getstate__()) if pre_tokenizer is not None else None
    if part is not None and (part["type"], part.get("pattern")) != ("Split", {"String": " "}):  # spaces are replaced
        raise UnreadPatternError(f"a pre-tokenizer of type {part['type']}")
    tokens = backend.get_vocab(with_added_tokens=False)
    complete = all(name in tokens for name in _BYTES)
    if not (getattr(model, "byte_fallback", False) and complete) or getattr(model, "ignore_merges", False):
        raise UnreadPatternError("a model that parts a text into words, or does not know each byte")
    for name in _BYTES:  # no text spells it, unless a merge makes it
        if not any(name[:place] in tokens and name[place:] in tokens for place in range(1, len(name))):
            del tokens[name]
    added = [token.content for token in read_added_tokens(backend)]
    joined = "\0".join((*tokens, *added)).replace(" ", "\u2581")
    if re.search("<0x[0-9A-F]{2}>", joined):
        raise UnreadPatternError("a token may be made of those of bytes, or a text spell one")
    return *_find_apart(joined), not _INDENTED.search(joined)


def _find_apart(joined: str) -> tuple[BoolArray, IntArray]:
    """Return which kinds of characters stand apart in tokens that are joined by NUL, and the kind of each character.

    Two characters stand apart if the first is in no token in front of the group of the second, or the second in none
    behind the group of the first. A kind is a group of characters with the same groups in front and behind.
    """
    import numpy as np

    points = np.frombuffer(joined.encode("utf-32-le"), "<u4").astype(np.int64)
    points[points >= _CHARACTERS] = 0
    groups = np.full(_CHARACTERS, _OTHER)
    for point in np.flatnonzero(np.bincount(points)):
        groups[point] = _GROUPS.get(unicodedata.category(chr(point))[0], _OTHER)
    groups[[0, ord("\n"), 0x2581]] = _NONE, _LINE, _SPACE
    before, behind = points[:-1], points[1:]
    meets = np.zeros((_CHARACTERS, 3, 8), bool)  # the groups in front, those behind, its own
    meets[before, 1, groups[behind]] = meets[behind, 0, groups[before]] = True
    meets[:, 2] = np.eye(8, dtype=bool)[groups]
    meets[0] = meets[:, :2, _NONE] = True  # NUL parts the tokens here, so that it is never cut
    meets[ord(" ")] = meets[0x2581]
    bits = np.packbits(meets.reshape(-1, 24), axis=1).astype(np.int64) @ [1 << 16, 1 << 8, 1]
    _, firsts, kinds = np.unique(bits, return_index=True, return_inverse=True)
    kinds = kinds.reshape(-1)
    front, back, own = meets[firsts].transpose(1, 0, 2).astype(np.float32)
    cut = (np.einsum("ik,jk->ij", back, own) == 0) | (np.einsum("ik,jk->ij", own, front) == 0)
    frequency = np.where(np.arange(_CHARACTERS) < 128, 1, 1e-4).astype(np.float32)
    frequency[[ord(" "), ord("\n")]] = 100
    weights = np.bincount(kinds, frequency).astype(np.float32)
    return _join_kinds(cut, kinds, weights)


def _join_kinds(cut: BoolArray, kinds: IntArray, weights: npt.NDArray[np.float32]) -> tuple[BoolArray, IntArray]:
    """Join kinds until they are few: always the two that lose the least by being cut only where both are."""
    import numpy as np

    numbers = np.arange(len(cut))
    while len(cut) > _KINDS:
        sides = np.hstack([cut, cut.T]).astype(np.float32)
        kept = np.einsum("ik,jk->ij", sides * np.tile(weights, 2), sides)  # BLAS would start threads
        lost = weights[:, None] * (np.diag(kept)[:, None] - kept)
        lost += lost.T
        np.fill_diagonal(lost, np.inf)
        one, two = sorted(np.unravel_index(lost.argmin(), lost.shape))
        cut[one] &= cut[two]
        cut[:, one] &= cut[:, two]
        weights[one] += weights[two]
        numbers = np.where(numbers == two, one, numbers - (numbers > two))
        rest = np.arange(len(cut)) != two
        cut, weights = cut[rest][:, rest], weights[rest]
    return cut, numbers[kinds]
