"""Texts to ids in flat arrays: by `tokenizers`, or faster by a cache or `fastokens` where that gives the same ids."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import require_unicode
from llama_padfix.tokens.backend import copy_backend, find_backend
from llama_padfix.tokens.cached.encoder import load_cached
from llama_padfix.tokens.cached.repeats import Repeats
from llama_padfix.tokens.calls import encode_raw, preserve_backend_state
from llama_padfix.tokens.fastokens import is_usable_here, load_fastokens
from llama_padfix.tokens.verification import (
    EngineKey,
    choose_places,
    choose_sample,
    compare_places,
    describe_difference,
    join_flat,
    keep_verdict,
)

if TYPE_CHECKING:
    import tokenizers

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.tokens.verification import Encode, FlatIds

logger = logging.getLogger(__name__)

EngineChoice = Literal["auto", "tokenizers", "cached", "fastokens"]

BREAK_EVEN = 15_000_000
"""Characters from which loading `fastokens` costs less CPU than it saves over the cache."""

CACHE_FROM, CACHE_FROM_WITHOUT_PATTERN = 500_000, 2_500_000
"""Characters from which making the engine with a cache costs less CPU than it saves, where words repeat. Without a
pattern the cuts are found in the vocabulary, ten times as slowly. `benchmarks/new_words.py --even` prints 0.2 to 0.4
million, and 1.7 to 2.4; the first verdict on a tokenizer costs the rest."""

_BATCH_TEXTS, _BATCH_CHARACTERS = 1000, 1_000_000  # in one call of `tokenizers`
_COMPARED = 1000  # one text in so many is compared while running
_SAMPLE_TEXTS, _SAMPLE_CHARACTERS = 32, 40_000
_NOT_PARALLEL = {"", "0", "false", "off", "no", "f", "n"}  # values of TOKENIZERS_PARALLELISM


class _Process:
    """Whether this process was forked. A fork inherits the memory of `tokenizers`, and none of its threads."""

    forked = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(setattr, _Process, "forked", True))


class Engine:
    """Encodes texts into one flat array of ids, exactly as the tokenizer's backend does; see `choose_engine`.

    Threads may share an engine, a fork may inherit it, and it can be pickled (native parts are loaded again). Changed
    tokens or settings of the tokenizer take effect at the next call.

    Attributes:
        failed: Why a faster engine was dropped after it had encoded texts, else "". Those texts may have got other
            ids, so encode them again.
        is_fixed: Set it where the caller compares `read_settings` itself, and makes another engine once they differ.
    """

    def __init__(self, tokenizer: TokenizerLike, choice: EngineChoice = "auto", characters: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.choice = choice
        self.characters = characters
        self._reset()

    def _reset(self) -> None:
        self.failed, self.is_fixed = "", False
        self._routes: _Routes | None = None
        self._seen_texts = self._seen_characters = 0
        self._locks: dict[int, threading.Lock] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"tokenizer": self.tokenizer, "choice": self.choice, "characters": self.characters}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def name(self) -> str:
        """The engine in use: "tokenizers", "cached" or "fastokens"."""
        return self._routes.name if self._routes is not None and self._routes.is_fast_here() else "tokenizers"

    def encode(self, texts: Sequence[str]) -> FlatIds:
        """Encode texts without additions, truncation or padding.

        Special tokens in a text are recognized as the tokenizer's backend does.

        Returns:
            The ids of all texts one after another, int32 of shape (tokens,), possibly read-only; and the number of ids
            of each text, int64 of shape (texts,).

        Raises:
            PadfixError: A text holds half of a surrogate pair.
        """
        texts = list(texts)
        routes, first, is_new = self._prepare(texts)
        fast = routes.fast  # read once: another thread may drop it
        if is_new or fast is None or not routes.is_fast_here():
            return _encode_in_batches(routes.exact, texts)
        try:
            difference = "" if routes.sampled else _compare_sample(fast, routes.exact, texts)
            if not difference:
                found = fast(texts)
                difference = compare_places(found, routes.exact, texts, choose_places(first, len(texts), _COMPARED))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic inside the engine is no Exception
            exact = _encode_in_batches(routes.exact, texts)  # a text that no engine can encode raises here
            self._stop(routes, f"it raised {type(error).__name__}: {error}")
            return exact
        if difference:
            self._stop(routes, difference)
            return _encode_in_batches(routes.exact, texts)
        routes.sampled = True
        return found

    def load(self) -> None:
        """Load the fastest engine now instead of at the first call that is worth it.

        Raises:
            PadfixError: The choice is "fastokens" or "cached", and it cannot be used.
        """
        with self._lock():
            self._load_fast(self._find_routes(), BREAK_EVEN)

    def _prepare(self, texts: Sequence[str]) -> tuple[_Routes, int, bool]:
        """Return the routes for these texts, how many came before them, and True if a cache has no use for them."""
        with self._lock():
            routes, characters = self._find_routes(), sum(map(len, texts))
            ahead = max(self.characters or 0, self._seen_characters, characters)
            repeat = routes.repeats.look(texts, characters) if self._may_cache(routes, ahead) else None
            self._load_fast(routes, ahead, bool(repeat))
            first = self._seen_texts
            self._seen_texts += len(texts)
            self._seen_characters += characters
        return routes, first, repeat is False and routes.name == "cached"

    def _may_cache(self, routes: _Routes, ahead: int) -> bool:
        may_load = self.choice == "auto" and not routes.name and not self.failed and "cached" not in routes.refused
        return routes.name == "cached" or (may_load and ahead >= routes.cache_from)

    def _find_routes(self) -> _Routes:
        settings = self._routes.settings if self._routes and self.is_fixed else read_settings(self.tokenizer)
        if self._routes is None or self._routes.settings != settings:
            repeats = Repeats(find_backend(self.tokenizer))
            self._routes = _Routes(settings, _make_exact_encoder(self.tokenizer), repeats)
        return self._routes

    def _load_fast(self, routes: _Routes, ahead: int, repeat: bool = True) -> None:
        """Load the fastest engine that is worth it for so many characters, or log why it is not used.

        A cache is worth it only if words `repeat`.
        """
        if self.failed or routes.name == "fastokens":
            return
        for name, worth in (("fastokens", BREAK_EVEN), ("cached", routes.cache_from)):
            if routes.name == name:
                return
            if (
                name in routes.refused
                or self.choice not in (name, "auto")
                or (self.choice == "auto" and (ahead < worth or (name == "cached" and not repeat)))
            ):
                continue
            try:
                if name == "fastokens":
                    routes.key, routes.fast = _load_fastest(self.tokenizer, routes)
                else:
                    routes.key, routes.fast = load_cached(self.tokenizer, _encode_with, routes.exact)
                routes.name, routes.sampled = name, False
                return
            except PadfixError as error:
                if self.choice == name:
                    raise
                routes.refused.add(name)
                logger.info("llama_padfix: encoding without the engine %s. %s", name, error)

    def _stop(self, routes: _Routes, difference: str) -> None:
        with self._lock():
            if self.failed:  # another thread was first
                return
            routes.fast, name, routes.name, self.failed = None, routes.name, "", difference
            if routes.key is not None:
                keep_verdict(routes.key, "it gave other ids, or raised, on a text of the data")
        logger.warning(
            "llama_padfix: the engine %s is not used for this tokenizer any more: %s. The texts of this call "
            "are encoded with tokenizers; encode again what was encoded before it.",
            name,
            difference,
        )

    def _lock(self) -> threading.Lock:
        # One for each process: a fork may have copied a lock that another thread held.
        return self._locks.setdefault(os.getpid(), threading.Lock())


@dataclass
class _Routes:
    """How the texts of a tokenizer with these settings are encoded."""

    settings: object
    exact: Encode
    repeats: Repeats
    key: EngineKey | None = None
    fast: Encode | None = None
    name: str = ""
    """The engine that is `fast`, "" without one."""
    refused: set[str] = field(default_factory=set)
    sampled: bool = False

    @property
    def cache_from(self) -> int:
        """Characters from which the cache is worth it."""
        return CACHE_FROM_WITHOUT_PATTERN if self.repeats.by_vocabulary else CACHE_FROM

    def is_fast_here(self) -> bool:
        """Return True if the fast engine may be called in this process."""
        return self.fast is not None and (self.name != "fastokens" or is_usable_here())


def choose_engine(tokenizer: TokenizerLike, engine: EngineChoice = "auto", *, characters: int | None = None) -> Engine:
    """Return the engine that encodes a tokenizer's texts. The ids are those of `tokenizers` in any case.

    The verdict of the probe is kept in `$XDG_CACHE_HOME/llama_padfix/engines`. In addition a sample of the first texts
    is compared in each process, and one text in 1,000 after that.

    Args:
        tokenizer: A Hugging Face tokenizer.
        engine: "tokenizers" is `tokenizers` itself. "cached" puts a cache of words in front of it. "fastokens" loads
            that package at once, behind the cache of a tokenizer without a splitting pattern. "auto" takes the cache
            from `CACHE_FROM` characters ahead (`CACHE_FROM_WITHOUT_PATTERN`) if words repeat in them, and `fastokens`
            from `BREAK_EVEN`, where they can be used and gave the same ids on the probe; until then, and everywhere
            else, `tokenizers` encodes.
        characters: The work ahead; None where it is not known, so that the characters so far are counted.

    Raises:
        PadfixError: `engine` is "fastokens" or "cached", which cannot be used here or gives other ids than
            `tokenizers` on the probe; or `engine` is unknown.
    """
    if engine not in get_args(EngineChoice):
        raise PadfixError(
            f"engine={engine!r} is not known. Use one of: {', '.join(map(repr, get_args(EngineChoice)))}."
        )
    chosen = Engine(tokenizer, engine, characters)
    if engine in ("fastokens", "cached") or (engine == "auto" and (characters or 0) >= BREAK_EVEN):
        chosen.load()
    return chosen


def _load_fastest(tokenizer: TokenizerLike, routes: _Routes) -> tuple[EngineKey, Encode]:
    """Return `fastokens`, behind the cache of words where no pattern parts a text for it."""
    key, fast = load_fastokens(tokenizer, routes.exact)
    if routes.repeats.by_vocabulary:
        with contextlib.suppress(PadfixError):
            return load_cached(tokenizer, _encode_with, routes.exact, fast, fast.merges)
    return key, fast


def _compare_sample(fast: Encode, exact: Encode, texts: Sequence[str]) -> str:
    sample = choose_sample(texts, _SAMPLE_TEXTS, _SAMPLE_CHARACTERS)
    return describe_difference(sample, fast(sample), exact(sample))


def _encode_in_batches(exact: Encode, texts: Sequence[str]) -> FlatIds:
    """Encode batch by batch, because `tokenizers` holds about 100 bytes a token until a batch is done."""
    parts, start, characters = [], 0, 0
    for place, text in enumerate(texts):
        if place - start == _BATCH_TEXTS or (characters + len(text) > _BATCH_CHARACTERS and place > start):
            parts.append(exact(texts[start:place]))
            start, characters = place, 0
        characters += len(text)
    parts.append(exact(texts[start:]))
    return join_flat(parts)


def read_settings(tokenizer: TokenizerLike) -> object:
    """Return a value that differs once a change of the tokenizer may change its ids; None without a backend.

    To read the added tokens takes milliseconds where there are thousands (Gemma), as each is copied.
    """
    backend = find_backend(tokenizer)
    if backend is None:
        return None
    return (
        id(backend),
        repr(backend.get_added_tokens_decoder()),  # with their flags
        tuple(tokenizer.all_special_ids),
        backend.encode_special_tokens,
        getattr(model := backend.model, "dropout", None),
        getattr(model, "ignore_merges", None),
        pickle.dumps((backend.normalizer, backend.pre_tokenizer)),
    )


def _make_exact_encoder(tokenizer: TokenizerLike) -> Encode:
    """Return the encoder with `tokenizers`: a copy of the backend that neither truncates nor pads."""
    backend = find_backend(tokenizer)
    if backend is None:
        return partial(_encode_one_by_one, tokenizer)
    return partial(_encode_with, copy_backend(backend))


def _encode_with(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> FlatIds:
    # With TOKENIZERS_PARALLELISM=true a forked process would wait forever for threads that it did not inherit.
    alone = _Process.forked and os.environ.get("TOKENIZERS_PARALLELISM", "").lower() not in _NOT_PARALLEL
    encode_batch = getattr(backend, "encode_batch_fast", backend.encode_batch)  # without offsets; from 0.20 on
    for text in texts:
        if not text.isascii():
            require_unicode(text)  # releases before 0.20 give no ids for it, and no error
    if alone:
        encodings = [backend.encode(text, add_special_tokens=False) for text in texts]
    else:
        encodings = encode_batch(list(texts), add_special_tokens=False)
    return _join([encoding.ids for encoding in encodings])


def _encode_one_by_one(tokenizer: TokenizerLike, texts: Sequence[str]) -> FlatIds:
    with preserve_backend_state(tokenizer):
        return _join([encode_raw(tokenizer, text) for text in texts])


def _join(rows: Sequence[Sequence[int]]) -> FlatIds:
    import numpy as np

    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    arrays = [np.array(row, np.int32) for row in rows]
    return np.concatenate(arrays) if arrays else np.empty(0, np.int32), lengths
