"""The Rust engine `fastokens`, made from a tokenizer's backend and used after it gave the same ids on a probe."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.backend import find_backend
from llama_padfix.tokens.cached.boundaries import is_cut_by_vocabulary
from llama_padfix.tokens.cached.indents import cut_merges
from llama_padfix.tokens.probe_texts import make_probe_texts
from llama_padfix.tokens.verification import (
    EngineKey,
    describe_difference,
    find_verdict,
    keep_verdict,
    make_engine_key,
    verdict_path,
)

if TYPE_CHECKING:
    import tokenizers

    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.tokens.verification import Encode, FlatIds

    class _Native(Protocol):
        """What is used of `fastokens.Tokenizer`."""

        @classmethod
        def from_json_str(cls, source: str) -> _Native: ...

        def encode_batch_flat(
            self, texts: list[str], *, add_special_tokens: bool, split_special_tokens: bool
        ) -> tuple[bytes, bytes]: ...


class FastEncoder:
    """A loaded `fastokens.Tokenizer`, called on texts; engines of the same tokenizer share it.

    `merges` are the first ones, as `cut_merges` returns them, "" where a pattern parts texts.
    """

    def __init__(self, native: _Native, split_special_tokens: bool, merges: str = "") -> None:
        self.merges = merges
        self._encode = native.encode_batch_flat
        self._split = split_special_tokens

    def __call__(self, texts: Sequence[str]) -> FlatIds:
        """Return the ids of all texts, a read-only int32 array over the engine's own buffer, and their lengths."""
        import numpy as np

        ids, ends = self._encode(list(texts), add_special_tokens=False, split_special_tokens=self._split)
        places = np.frombuffer(ends, "<u8").astype(np.int64)
        return np.frombuffer(ids, "<i4").astype(np.int32, copy=False), places[1:] - places[:-1]


# Engines of equal tokenizers share one native encoder, as long as one of them lives.
_loaded: weakref.WeakValueDictionary[EngineKey, FastEncoder] = weakref.WeakValueDictionary()


def load_fastokens(tokenizer: TokenizerLike, exact: Encode) -> tuple[EngineKey, FastEncoder]:
    """Return the key and the encoder of `fastokens` for a tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        exact: Encodes with `tokenizers`. The ids of a probe are compared, unless an earlier run kept its verdict.

    Raises:
        PadfixError: `fastokens` is not installed, cannot read the tokenizer, or gives other ids.
    """
    backend = find_backend(tokenizer)
    if backend is None:
        raise PadfixError(
            f"fastokens needs a fast tokenizer, and a {type(tokenizer).__name__} has no backend of the package "
            "tokenizers. Use engine='tokenizers', or load the fast one: AutoTokenizer.from_pretrained(name)"
        )
    native = _import_fastokens()
    if not is_usable_here():
        raise PadfixError(
            "fastokens has threads in the process that this one was forked from, so that it may hang here. Use "
            "engine='tokenizers', unset FASTOKENS_BPE_THREADS, or start processes with multiprocessing's 'spawn'."
        )
    source = _read_source(backend)
    key = make_engine_key(source, bool(backend.encode_special_tokens))
    difference = find_verdict(key)
    if difference:
        raise _refuse(key, difference)
    fast = _loaded.get(key)
    if fast is None:
        try:
            merges = cut_merges(source) if is_cut_by_vocabulary(backend) else ""
            fast = FastEncoder(native.from_json_str(source), key.split_special_tokens, merges)
            _threads.settle(fast)
            if difference is None:
                probe = make_probe_texts(token.content for token in backend.get_added_tokens_decoder().values())
                difference = describe_difference(probe, fast(probe), exact(probe))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic inside the engine is no Exception
            difference = f"it raised {type(error).__name__}: {error}"
        keep_verdict(key, difference or "")
        if difference or fast is None:
            raise _refuse(key, difference or "")
        _loaded[key] = fast
    return key, fast


def is_usable_here() -> bool:
    """Return True if the engine may be called in this process.

    A process forked from one in which the engine has threads inherits none of them, but maybe their locks.
    """
    return not _threads.exist or _threads.process == os.getpid()


def _import_fastokens() -> type[_Native]:
    missing = "The engine fastokens is not installed"
    if importlib.util.find_spec("fastokens") is not None:
        try:
            native = cast("type[_Native]", importlib.import_module("fastokens").Tokenizer)
            if hasattr(native, "encode_batch_flat"):
                return native
            missing = "The installed fastokens is too old: it has no encode_batch_flat"
        except ImportError as error:
            missing = f"The engine fastokens cannot be imported ({error})"
    raise PadfixError(f'{missing}. Run: pip install -U "llama-padfix[fast]", or use engine="tokenizers"')


def _read_source(backend: tokenizers.Tokenizer) -> str:
    """Return the tokenizer as JSON without the parts that only truncate, pad, add or decode."""
    unused = dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    # The vocabulary is megabytes and comes last: only what stands before it is parsed.
    whole: str = backend.to_str()
    head, mark, model = whole.partition(',"model":{')
    if not mark:
        return json.dumps(json.loads(head) | unused)
    return json.dumps(json.loads(head + "}") | unused, ensure_ascii=False)[:-1] + mark + model


class _Threads:
    """The threads that the engine has in this process.

    There is one such object, since the engine makes its threads once a process. A fork inherits the object: hence the
    id of the process, and a lock that is renewed, since another thread may have held it.
    """

    def __init__(self) -> None:
        self.process: int | None = None  # in which the engine decided how many threads it has
        self.exist = False
        self._renew_lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def settle(self, fast: FastEncoder) -> None:
        """Make the engine decide for one thread, once a process, unless `FASTOKENS_BPE_THREADS` is set.

        Two threads cost a third more CPU for the same texts, and a process that is forked while they work inherits
        their locked locks. The engine makes its threads at its first batch, as many as the calling thread may run on,
        so that batch is encoded while this thread may run on one processor alone. No environment variable is changed.
        """
        with self._lock:
            if self.process is not None:
                return
            allowed = None
            if "FASTOKENS_BPE_THREADS" not in os.environ and hasattr(os, "sched_setaffinity"):
                with contextlib.suppress(OSError):
                    allowed = os.sched_getaffinity(0)
                    os.sched_setaffinity(0, {min(allowed)})
            try:
                fast(["a", "b"])
            finally:
                if allowed is not None:
                    os.sched_setaffinity(0, allowed)
            self.process, self.exist = os.getpid(), _find_threads()


_threads = _Threads()


def _find_threads() -> bool:
    """Return True if the engine has threads of its own, or where the system does not list threads."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            names.append(path.read_text(encoding="utf-8", errors="replace"))
    return not names or any(name.startswith("fastokens") for name in names)


def _refuse(key: EngineKey, difference: str) -> PadfixError:
    return PadfixError(
        f"fastokens is not used for this tokenizer: {difference}. Use engine='tokenizers'. (Kept in "
        f"{verdict_path(key)} until one of the packages changes.)"
    )
