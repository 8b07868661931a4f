"""The `tokenizers.Tokenizer` behind a Hugging Face tokenizer: found, and copied without its vocabulary."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def find_backend(tokenizer: Any) -> Any:
    """Return the `tokenizers.Tokenizer` behind a tokenizer; None where it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    from tokenizers import Tokenizer

    return backend if isinstance(backend, Tokenizer) else None


def copy_backend(backend: Any) -> Any:
    """Return a copy of a `tokenizers.Tokenizer` that gives the same ids without cutting, padding or adding any.

    It shares the vocabulary: 1 ms for Llama 3, where writing and reading it takes 0.6 s.
    """
    from tokenizers import Tokenizer

    copied = Tokenizer(backend.model)
    for name in ("normalizer", "pre_tokenizer"):
        if getattr(backend, name) is not None:
            setattr(copied, name, getattr(backend, name))
    added = backend.get_added_tokens_decoder()
    in_order = [added[token_id] for token_id in sorted(added)]
    for special, tokens in itertools.groupby(in_order, key=lambda token: bool(token.special)):
        (copied.add_special_tokens if special else copied.add_tokens)(list(tokens))
    if _state_of(copied) != _state_of(backend):  # ids with gaps between them
        copied = Tokenizer.from_str(backend.to_str())
        copied.no_truncation()
        copied.no_padding()
    copied.encode_special_tokens = backend.encode_special_tokens
    return copied


def _state_of(backend: Any) -> dict[int, Any]:
    return {token_id: token.__getstate__() for token_id, token in backend.get_added_tokens_decoder().items()}
