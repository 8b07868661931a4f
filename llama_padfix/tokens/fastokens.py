"""The Rust engine `fastokens`, loaded from a tokenizer's backend and taken only after a probe agrees with it."""

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
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.backend import find_backend
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
    from llama_padfix.tokens.verification import Encode, Ids

_settling = threading.Lock()
_settled_in: int | None = None  # the process in which the engine decided how many threads it has
_has_threads = False


def _renew_lock() -> None:
    global _settling
    _settling = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class FastEncoder:
    """A loaded `fastokens.Tokenizer`, called on texts; engines of the same tokenizer share it."""

    def __init__(self, native: Any, split_special_tokens: bool) -> None:
        self._encode = native.encode_batch_flat
        self._split = split_special_tokens

    def __call__(self, texts: Sequence[str]) -> Ids:
        """Return the ids of all texts, a read-only int32 array over the engine's own buffer, and their lengths."""
        import numpy

        ids, ends = self._encode(list(texts), add_special_tokens=False, split_special_tokens=self._split)
        places = numpy.frombuffer(ends, "<u8").astype(numpy.int64)
        return numpy.frombuffer(ids, "<i4").astype(numpy.int32, copy=False), places[1:] - places[:-1]


_loaded: weakref.WeakValueDictionary[EngineKey, FastEncoder] = weakref.WeakValueDictionary()


def load_fastokens(tokenizer: Any, exact: Encode) -> tuple[EngineKey, FastEncoder]:
    """Return `fastokens` for a tokenizer, once it has given the ids of `exact` on the probe, now or in an earlier run.

    Raises `PadfixError` where it is not installed, cannot read the tokenizer, or gives other ids.
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
    subject = make_engine_key(source, bool(backend.encode_special_tokens))
    difference = find_verdict(subject)
    if difference:
        raise _refuse(subject, difference)
    fast = _loaded.get(subject)
    if fast is None:
        try:
            fast = FastEncoder(native.from_json_str(source), subject.split_special_tokens)
            _settle_threads(fast)
            if difference is None:
                probe = make_probe_texts(token.content for token in backend.get_added_tokens_decoder().values())
                difference = describe_difference(probe, fast(probe), exact(probe))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic inside the engine is no Exception
            difference = f"it raised {type(error).__name__}: {error}"
        keep_verdict(subject, difference or "")
        if difference or fast is None:
            raise _refuse(subject, difference or "")
        _loaded[subject] = fast
    return subject, fast


def is_usable_here() -> bool:
    """Tell whether the engine may be called in this process.

    A process that is forked from one in which the engine has threads has none of them, and maybe their locks.
    """
    return not _has_threads or _settled_in == os.getpid()


def _import_fastokens() -> Any:
    missing = "The engine fastokens is not installed"
    if importlib.util.find_spec("fastokens") is not None:
        try:
            native = importlib.import_module("fastokens").Tokenizer
            if hasattr(native, "encode_batch_flat"):
                return native
            missing = "The installed fastokens is too old: it has no encode_batch_flat"
        except ImportError as error:
            missing = f"The engine fastokens cannot be imported ({error})"
    raise PadfixError(f"{missing}. Run: pip install -U 'llama-padfix[fast]', or use engine='tokenizers'")


def _read_source(backend: Any) -> str:
    """Return the tokenizer as JSON without what only cuts, pads, adds or decodes."""
    unused = dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    # The vocabulary is megabytes and comes last: only what stands before it is parsed.
    whole: str = backend.to_str()
    head, mark, model = whole.partition(',"model":{')
    if not mark:
        return json.dumps(json.loads(head) | unused)
    return json.dumps(json.loads(head + "}") | unused, ensure_ascii=False)[:-1] + mark + model


def _settle_threads(fast: FastEncoder) -> None:
    """Let the engine decide for one thread, once a process, unless `FASTOKENS_BPE_THREADS` asks for several.

    Two threads cost a third more CPU for the same texts, and a process that is forked while they work inherits their
    locked locks. The engine makes its threads at its first batch, as many as the calling thread may run on; so that
    batch is encoded while this thread may run on one processor alone. Nothing else is narrowed, and no environment.
    """
    global _settled_in, _has_threads
    with _settling:
        if _settled_in is not None:
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
        _settled_in, _has_threads = os.getpid(), _find_threads()


def _find_threads() -> bool:
    """Tell whether the engine has threads of its own; where the system does not tell, it may."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            names.append(path.read_text(encoding="utf-8", errors="replace"))
    return not names or any(name.startswith("fastokens") for name in names)


def _refuse(subject: EngineKey, difference: str) -> PadfixError:
    return PadfixError(
        f"fastokens is not used for this tokenizer: {difference}. Use engine='tokenizers'. (Kept in "
        f"{verdict_path(subject)} until either package changes.)"
    )
