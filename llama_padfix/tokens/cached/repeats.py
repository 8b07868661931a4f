"""Whether the words of texts repeat, so that a cache of them pays: told from a few texts, before any table is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_padfix.tokens.cached.boundaries import is_cut_by_vocabulary
from llama_padfix.tokens.verification import choose_sample

if TYPE_CHECKING:
    import tokenizers

LOOK = 16_000  # characters that are looked at
_PAUSE = 1_000_000  # characters until the next look, where words do not repeat
_TEXTS = 16  # at least, in one look
_NEW = 0.8  # of the characters stand in different words: usual text has 0.3 to 0.7, text without repeats 0.85 to 1
_WORD = re.compile(r"[^\W\d]+|[^\w\s]+")
_HAN = "\u4e00-\u9fff"
_WORD_OR_HAN = re.compile(rf"[{_HAN}]|[^\W\d{_HAN}]+|[^\w\s]+")


class Repeats:
    """Looks at texts until their words repeat, now and then where they do not.

    Attributes:
        by_vocabulary: Whether no pattern parts a text. Then a Han character is a word, as few tokens join two of them.
        found: Whether words repeat, None until enough was seen.
    """

    def __init__(self, backend: tokenizers.Tokenizer | None) -> None:
        self.by_vocabulary = backend is not None and is_cut_by_vocabulary(backend)
        self.found: bool | None = None
        self._word = _WORD_OR_HAN if self.by_vocabulary else _WORD
        self._seen: list[str] = []
        self._missing, self._rest = LOOK, 0

    def look(self, texts: Sequence[str], characters: int) -> bool | None:
        """Return `found`, after a look at texts of so many characters where one is due."""
        self._rest -= characters
        if self.found or self._rest > 0:
            return self.found
        count = _TEXTS + 2 * len(texts) * self._missing // max(characters, 1)  # their lengths differ
        sample = choose_sample(texts, count, self._missing)
        self._seen += sample
        self._missing -= sum(map(len, sample))
        if self._missing <= 0:
            words = self._word.findall("\n".join(self._seen))
            self.found = sum(map(len, {*words})) <= _NEW * sum(map(len, words))
            self._seen, self._missing, self._rest = [], LOOK, _PAUSE
        return self.found
