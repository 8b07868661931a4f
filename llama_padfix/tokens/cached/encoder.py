"""`tokenizers` behind a cache of words: texts are cut where no token can reach across, and each part is encoded once.

Numpy finds the cuts, Arrow the different parts, and `tokenizers` encodes those that were not seen before: the ids are
its own. A text that the normalizer may change goes past the cache.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate, compress, repeat
from operator import attrgetter
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.backend import copy_backend, find_backend
from llama_padfix.tokens.cached.added import AddedTokens
from llama_padfix.tokens.cached.boundaries import (
    CLASSES,
    CUT,
    LINE_RUN,
    RUN,
    STOP,
    WORD,
    cut_indents,
    find_boundaries,
    is_composing,
    is_cut_by_vocabulary,
)
from llama_padfix.tokens.cached.pattern import UnreadPatternError
from llama_padfix.tokens.cached.words import FasterWords, Words, join_words, number_words, split_at, write_with
from llama_padfix.tokens.probe_texts import make_probe_texts
from llama_padfix.tokens.verification import (
    EngineKey,
    describe_difference,
    find_verdict,
    join_flat,
    keep_verdict,
    make_engine_key,
    split_flat,
    verdict_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import tokenizers

    from llama_padfix.core.types import ByteArray, IntArray, LongArray, TokenizerLike
    from llama_padfix.tokens.verification import Encode, FlatIds

    EncodeWith = Callable[[tokenizers.Tokenizer, Sequence[str]], FlatIds]

WORDS = 300_000  # in the cache, which is emptied when there are more
_FEW = 1000  # bytes that `tokenizers` encodes in less time
_MOST = 2**29  # bytes whose ids have places of 31 bits
_MARK = "\U0010ffff"  # between those words; no character
_MARK_BYTES = _MARK.encode()
_NOT_EVERYWHERE = re.compile("[\U00010000-\U0001d3ff]")  # releases of Unicode compose different ones
_INSTEAD = "Use engine='tokenizers'"
_get_id = attrgetter("id")


def load_cached(
    tokenizer: TokenizerLike, encode_with: EncodeWith, exact: Encode, fast: Encode | None = None, merges: str = ""
) -> tuple[EngineKey, CachedEncoder]:
    """Return the key and the encoder with a cache for a tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        encode_with: Encodes texts with a backend.
        exact: Encodes with the tokenizer's. The ids of a probe are compared, unless an earlier run kept its verdict.
        fast: A faster engine, which encodes new words and what goes past the cache.
        merges: The first merges, as `cut_merges` returns them, with which indents are words of their own.

    Raises:
        PadfixError: pyarrow is not installed, the tokenizer is not understood, or the ids differ.
    """
    backend = find_backend(tokenizer)
    if backend is None or importlib.util.find_spec("pyarrow") is None:
        raise PadfixError(
            "The engine cached needs the package pyarrow and a tokenizer with a backend of the package tokenizers. "
            f"{_INSTEAD}"
        )
    source, package = _describe(backend) + merges, "fastokens" if fast else ""
    key = make_engine_key(source, bool(backend.encode_special_tokens), package)
    difference = find_verdict(key)
    try:
        if difference:
            raise UnreadPatternError(difference)
        cached = CachedEncoder(backend, encode_with, exact, fast, merges)
    except UnreadPatternError as error:
        raise PadfixError(f"The engine cached is not used for this tokenizer: {error}. {_INSTEAD}") from None
    if difference is None:
        probe = make_probe_texts(token.content for token in backend.get_added_tokens_decoder().values())
        difference = describe_difference(probe, cached.try_out(probe), exact(probe))
        keep_verdict(key, difference)
        if difference:
            raise PadfixError(
                f"The engine cached is not used for this tokenizer: {difference}. {_INSTEAD}. (Kept in "
                f"{verdict_path(key)} until one of the packages changes.)"
            )
    return key, cached


def _describe(backend: tokenizers.Tokenizer) -> str:
    """Return what the cuts depend on."""
    added = [repr(token) for token in backend.get_added_tokens_decoder().values()]
    size = backend.get_vocab_size(with_added_tokens=False) if is_cut_by_vocabulary(backend) else 0
    tokens = [size, *map(backend.id_to_token, range(0, size, 100))]
    return json.dumps([str(pickle.dumps((backend.normalizer, backend.pre_tokenizer))), added, tokens])


class CachedEncoder:
    """Encodes texts as `exact` does, each word once. Threads may share it; a fork begins with an empty cache."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        encode_with: EncodeWith,
        exact: Encode,
        fast: Encode | None = None,
        merges: str = "",
    ) -> None:
        import numpy as np
        from tokenizers import AddedToken

        if getattr(backend.model, "dropout", None):
            raise UnreadPatternError("a model that drops merges at random")
        self._past = fast or exact  # past the cache
        self._encode_faster = FasterWords(backend, fast) if fast is not None else None
        self._boundaries = find_boundaries(backend, merges)
        cuts = self._boundaries.cuts.reshape(CLASSES, CLASSES)
        runs = np.bitwise_or.reduce(cuts & RUN, axis=0) > 0  # by class
        self._table = cuts.tobytes()
        self._forced = (CUT + RUN * runs + STOP * runs[:, None]).astype("u1").reshape(-1)
        self._of_bytes = self._boundaries.classes[:128].tobytes() + bytes(128)
        self._added = AddedTokens(backend) if not self._boundaries.holds_tokens else None
        self._composes = is_composing(backend)
        marked = copy_backend(backend)
        marked.add_tokens([AddedToken(_MARK, normalized=False)])
        self._mark: int = marked.token_to_id(_MARK)  # type: ignore[assignment]  # it was added
        self._marked = marked
        self._encode_marked = partial(encode_with, marked)
        self._words_of: dict[int, Words] = {}  # by process: a fork may have copied a lock that another thread held

    @cached_property
    def _begins(self) -> re.Pattern[str]:
        return _find_begins(self._marked)

    def __call__(self, texts: Sequence[str]) -> FlatIds:
        """Return the ids of all texts and the number of ids of each."""
        if self._composes:
            changed = [not text.isascii() and not _is_composed(text) for text in texts]
            if any(changed):
                return self._encode_apart(texts, changed)
        return join_flat([self._encode_chunk(chunk) for chunk in self._part(texts)])

    def try_out(self, texts: Sequence[str]) -> FlatIds:
        """Encode texts by the cache, however new their words are, and forget them."""
        self._words_of[os.getpid()] = Words(looks=False)
        found = self(texts)
        self._words_of.clear()
        return found

    def _encode_apart(self, texts: Sequence[str], changed: Sequence[bool]) -> FlatIds:
        """Encode texts of which the normalizer may change some."""
        kept = self([text for text, apart in zip(texts, changed, strict=True) if not apart])
        others = self._past([*compress(texts, changed)])
        queues = [iter(split_flat(found)) for found in (kept, others)]
        return join_flat([next(queues[apart]) for apart in changed])

    def _part(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Yield the texts in chunks, larger ones while the cache has their words."""
        start = size = 0
        known = self._find_words()
        for place, text in enumerate(texts):
            if size > known.size_chunk():
                yield texts[start:place]
                start, size = place, 0
            size += len(text)
        yield texts[start:]

    def _find_words(self) -> Words:
        return self._words_of.get(os.getpid()) or self._words_of.setdefault(os.getpid(), Words())

    def _encode_chunk(self, texts: Sequence[str]) -> FlatIds:
        import numpy as np

        encoded = [text.encode() for text in texts]
        data = b"".join(encoded)
        known = self._find_words()
        with known.lock:
            rests = known.rest > 0
            known.rest -= len(data)
        if rests or not max(_FEW, 1) <= len(data) <= _MOST or (_MARK_BYTES[0] in data and _MARK_BYTES in data):
            return self._past(texts)
        text_ends = np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded))
        bounds = self._find_bounds(data, encoded, text_ends)
        numbers, words = number_words(data, bounds)
        with known.lock:
            places = self._find_places(known, words, len(data))
            first, counts, ids = known.arrays
            if len(counts) > WORDS or len(ids) > 4 * WORDS:
                known.clear()
        if places is None:
            return self._past(texts)
        found, ends = join_words(first[places], counts[places], ids, numbers)
        return found, np.diff(ends[np.searchsorted(bounds, text_ends)], prepend=0)

    def _find_bounds(self, data: bytes, encoded: Sequence[bytes], text_ends: LongArray) -> IntArray:
        """Return where the words start, and the end: at the cuts, at each text, at added tokens and behind them."""
        import numpy as np

        classes = np.frombuffer(bytearray(data.translate(self._of_bytes)), np.uint8)
        inner = None
        if not data.isascii():
            units = np.frombuffer(data, np.uint8)
            high = np.flatnonzero(units > 127)
            points = np.frombuffer(units[high].tobytes().decode().encode("utf-32-le"), "<u4")
            of_points = self._boundaries.classes[np.minimum(points, 0xFFFF)]
            of_points[points > 0xFFFF] = 0
            classes[high] = np.repeat(of_points, 2 + (points > 0x7FF).astype(np.int64) + (points > 0xFFFF))
            inner = high[(units[high] & 0xC0) == 0x80]
        pairs = classes << 4
        pairs[:-1] |= classes[1:]
        cuts = np.frombuffer(bytearray(pairs.tobytes().translate(self._table)), np.uint8)
        if inner is not None:
            cuts[inner - 1] = 0
        last = text_ends[text_ends > 0] - 1
        cuts[last] = self._forced[pairs[last]]
        if self._boundaries.longest_indent > 1:
            cut_indents(cuts, data, last, self._boundaries.longest_indent)
        if self._added is not None:
            firsts, lasts = self._clear_tokens(self._added, cuts, encoded, text_ends)
            for places in (firsts[firsts >= 0], lasts, last):
                cuts[places] = self._forced[pairs[places]]
            if self._forced.max() > CUT:
                cuts[firsts[firsts >= 0]] &= ~RUN & 0xFF
                cuts[lasts] &= ~STOP & 0xFF
                begins = bool(self._forced[classes[0]] & RUN) and not (firsts < 0).any()
                self._cut_runs(cuts, data, begins)
        ends = np.flatnonzero((cuts & CUT).view(bool))  # less one
        bounds = np.zeros(len(ends) + 1, np.int32)
        np.add(ends, 1, out=bounds[1:], casting="unsafe")
        return bounds

    def _clear_tokens(
        self, added: AddedTokens, cuts: ByteArray, encoded: Sequence[bytes], text_ends: LongArray
    ) -> tuple[LongArray, LongArray]:
        """Remove the cuts within added tokens; return the places before their first bytes, and their last ones."""
        import numpy as np

        found = [added.find(text) for text in encoded]
        edges = np.array([edge for spans in found for span in spans for edge in span], np.int64).reshape(-1, 2)
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        edges += np.repeat(text_ends - sizes, [*map(len, found)])[:, None]
        firsts, lasts = (edges - 1).T
        lengths = lasts - firsts - 1  # of what is cleared: all of a token but its last byte
        within = np.arange(int(lengths.sum())) - np.repeat(lengths.cumsum() - lengths, lengths)
        cuts[within + np.repeat(firsts + 1, lengths)] = 0
        return firsts, lasts

    def _cut_runs(self, cuts: ByteArray, data: bytes, begins: bool) -> None:
        """Cut runs of white space behind a line break, and before their last character; one begins the text or not."""
        import numpy as np

        starts = np.flatnonzero((cuts & RUN) > 0) + 1
        if begins:
            starts = np.append(0, starts)
        ends = np.flatnonzero((cuts & (WORD + STOP)) > 0)
        before_word = (cuts[ends] & WORD) > 0
        starts, ends = starts[before_word], ends[before_word]
        before = np.where(starts > 0, cuts[starts - 1], CUT)
        cuts[starts[(before & LINE_RUN) > 0] - 1] |= CUT
        is_one_byte = np.frombuffer(data, np.uint8)[ends] < 128
        cuts[ends[((before & (CUT + LINE_RUN)) > 0) & (ends > starts) & is_one_byte] - 1] |= CUT

    def _find_places(self, known: Words, words: list[bytes], size: int) -> LongArray | None:
        """Return the places of words in the cache, after the new ones are encoded; None where most of it is new."""
        import numpy as np

        places = np.fromiter(map(known.places.get, words, repeat(-1)), np.int64, len(words))
        is_new = places < 0
        new_words = [*compress(words, is_new.tolist())]
        if known.is_new(sum(map(len, new_words)), size):
            return None
        if new_words:
            encode = self._encode_alone if self._added is None else self._encode_words
            places[is_new] = known.add(new_words, encode(new_words))
        known.seen += size
        return places

    def _encode_words(self, words: Sequence[bytes]) -> FlatIds:
        """Encode words by `tokenizers`, with marks between them."""
        return split_at(self._mark, self._encode_marked(write_with(_MARK_BYTES, words))[0])

    def _encode_alone(self, words: Sequence[bytes]) -> FlatIds:
        """Encode words by the faster engine, or by the model, but for those in which an added token may begin."""
        import numpy as np

        if self._encode_faster is not None:
            return self._encode_faster(words)
        texts = [word.decode() for word in words]
        apart = [self._begins.search(text) is not None for text in texts]
        others = iter(split_flat(self._encode_words([*compress(words, apart)])))
        found: list[int] = []
        ends, model = [], self._marked.model
        for text, other in zip(texts, apart, strict=True):
            if other:
                found += next(others)[0].tolist()
            else:
                found += map(_get_id, model.tokenize(text.replace(" ", "\u2581")))
            ends.append(len(found))
        return np.array(found, np.int32), np.diff(ends, prepend=0)


def _find_begins(backend: tokenizers.Tokenizer) -> re.Pattern[str]:
    """Return a pattern of the characters with which added tokens begin, where spaces may be written as U+2581."""
    tokens = backend.get_added_tokens_decoder().values()
    begins = {token.content[:1] for token in tokens}
    if any(token.normalized and token.content.startswith((" ", "\u2581")) for token in tokens):
        begins |= {" ", "\u2581"}
    return re.compile(f"[{re.escape(''.join(sorted(begins)))}]")


def _is_composed(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text) and not _NOT_EVERYWHERE.search(text)
