"""The words of a process with their ids: kept, encoded many in one text, numbered and joined."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from threading import Lock
from typing import TYPE_CHECKING

from llama_padfix.core.arrow import temporary_pool
from llama_padfix.tokens.cached.added import find_parting

if TYPE_CHECKING:
    import pyarrow
    import tokenizers

    from llama_padfix.core.types import IdArray, IntArray, LongArray
    from llama_padfix.tokens.verification import Encode, FlatIds

_LONGEST = 100  # bytes of a word that is kept
_TOGETHER = 500  # new words in one text
_CHUNK = 8_000_000  # characters that are cut at once, at most
_LOOK = 128_000  # bytes after which it is asked how many of them were in new words; at first, characters of a chunk
_NEW, _NEW_LATER = 0.7, 0.5  # of the bytes in new words: above it the cache costs more than it saves
_LATER = 1_000_000  # bytes
_PAUSE, _LONGEST_PAUSE = 1_000_000, 8_000_000  # bytes that then go past the cache: at first, at most


class Words:
    """The cache of one process.

    Args:
        looks: Whether text goes past the cache for a while where most bytes of late were in new words.
    """

    def __init__(self, looks: bool = True) -> None:
        self.lock = Lock()
        self.rest = 0  # bytes that are encoded without the cache, since the last ones were new
        self._looks, self._chunk, self._pause = looks, _LOOK if looks else _CHUNK, _PAUSE
        self._looked = self._missed = 0  # bytes since the last look, and of those in new words
        self.clear()

    def size_chunk(self) -> int:
        """Return how many characters to cut at once: few at first, and where most of them were new."""
        return max(self._chunk, min(self.rest, _PAUSE))

    def is_new(self, missed: int, size: int) -> bool:
        """Note that so many bytes of `size` were in new words; return True if those to come go past the cache."""
        self._looked += size
        self._missed += missed
        if self._looked < _LOOK or not self._looks:
            return False
        share = self._missed / self._looked
        self._looked = self._missed = 0
        if share <= (_NEW_LATER if self.seen >= _LATER else _NEW):
            self._chunk, self._pause = min(4 * self._chunk, _CHUNK), _PAUSE
            return False
        self._chunk, self.rest, self._pause = _LOOK, self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return True

    def clear(self) -> None:
        """Forget all words."""
        import numpy as np

        self.places: dict[bytes, int] = {}
        none = np.zeros(0, np.int64)
        self.arrays: tuple[LongArray, LongArray, IdArray] = none, none, np.zeros(0, np.int32)
        """Where the ids of each place start, how many they are, and all ids."""
        self.seen = 0  # bytes of the texts so far

    def add(self, words: Sequence[bytes], found: FlatIds) -> range:
        """Add words with their ids, and return their places.

        The arrays are replaced at once, since another thread may read them, and before words lead there: an interrupt
        may come at any time.
        """
        import numpy as np

        new_ids, new_counts = found
        starts, counts, ids = self.arrays
        places = range(len(counts), len(counts) + len(words))
        new_starts = len(ids) + new_counts.cumsum() - new_counts
        self.arrays = (
            np.concatenate([starts, new_starts]),
            np.concatenate([counts, new_counts]),
            np.concatenate([ids, new_ids]),
        )
        kept = np.fromiter(map(len, words), np.int64, len(words)) <= _LONGEST
        self.places.update(compress(zip(words, places, strict=True), kept.tolist()))
        return places


class FasterWords:
    """Encodes words as a faster engine encodes each as a text, in fewer texts."""

    def __init__(self, backend: tokenizers.Tokenizer, fast: Encode) -> None:
        self._fast = fast
        self._parting = find_parting(backend)

    def __call__(self, words: Sequence[bytes]) -> FlatIds:
        """Return the ids of all words and the number of ids of each."""
        if self._parting is not None:
            token, number = self._parting
            texts = write_with(token.encode(), words)
            if sum(text.count(token) for text in texts) == len(words):  # no word spells it
                return split_at(number, self._fast(texts)[0])
        return self._fast([word.decode() for word in words])


def number_words(data: bytes, bounds: IntArray) -> tuple[pyarrow.Array, list[bytes]]:
    """Return for each word which of the different words it is, and those. `bounds` are int32, one more than words."""
    import pyarrow
    from pyarrow import compute

    buffers = [None, pyarrow.py_buffer(bounds), pyarrow.py_buffer(data)]
    words = pyarrow.Array.from_buffers(pyarrow.binary(), len(bounds) - 1, buffers)
    encoded = compute.dictionary_encode(words, memory_pool=temporary_pool())
    return encoded.indices, encoded.dictionary.to_pylist()


def join_words(first: LongArray, counts: LongArray, ids: IdArray, numbers: pyarrow.Array) -> tuple[IdArray, IntArray]:
    """Return the ids of words by their numbers, and where each one starts and the last one ends.

    Args:
        first: Where the ids of each number start in `ids`.
        counts: How many they are.
        ids: The ids of all words.
        numbers: Of the words.
    """
    import numpy as np
    import pyarrow
    from pyarrow import compute

    edges = np.append(0, counts.cumsum())
    sources = np.repeat(first - edges[:-1], counts)
    sources += np.arange(len(sources))
    buffers = [None, pyarrow.py_buffer((4 * edges).astype(np.int32)), pyarrow.py_buffer(ids[sources])]
    words = pyarrow.Array.from_buffers(pyarrow.binary(), len(first), buffers)  # whose bytes are the ids
    taken = compute.take(words, numbers, memory_pool=temporary_pool())
    _, ends, found = taken.buffers()
    edges = np.frombuffer(ends, np.int32, len(numbers) + 1, 4 * taken.offset) >> 2
    return np.frombuffer(found, np.int32, edges[-1]), edges


def write_with(mark: bytes, words: Sequence[bytes]) -> list[str]:
    """Return words in few long texts, with a mark behind each, because each text takes as long as several words."""
    groups = (words[start : start + _TOGETHER] for start in range(0, len(words), _TOGETHER))
    return [(mark.join(group) + mark).decode() for group in groups]


def split_at(mark: int, ids: IdArray) -> FlatIds:
    """Return the ids of words behind each of which stands a mark, and the number of ids of each."""
    import numpy as np

    is_mark = ids == mark
    return ids[~is_mark], np.diff(np.flatnonzero(is_mark), prepend=-1) - 1
