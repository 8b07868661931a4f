"""A Hugging Face tokenizer called without side effects."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.kinds import refuse
from llama_padfix.tokens.backend import clone_backend, find_backend

if TYPE_CHECKING:
    from llama_padfix.core.types import Messages, TokenizerLike, Tool

_Tokenizer = TypeVar("_Tokenizer", bound="TokenizerLike")


def check_tokenizer(tokenizer: object) -> None:
    """Raise `PadfixError` unless `tokenizer` can encode text and knows its vocabulary."""
    needed = ("get_vocab", "convert_tokens_to_ids", "apply_chat_template")
    missing = [name for name in needed if not hasattr(tokenizer, name)]
    if missing or not callable(tokenizer):
        if hasattr(tokenizer, "tokenizer"):
            seen = type(tokenizer).__name__
            raise PadfixError(
                f"Got a {seen}, which is a processor and not a tokenizer. Pass its tokenizer: processor.tokenizer"
            )
        raise refuse(tokenizer, "tokenizer")
    if type(getattr(tokenizer, "_tokenizer", None)).__module__.startswith("fastokens"):
        raise PadfixError(
            "fastokens.patch_transformers() has put another backend into the tokenizer, which knows neither what its "
            "tokens cover nor which are special. Load it without: fastokens.unpatch_transformers(); tokenizer = "
            "AutoTokenizer.from_pretrained(name). This library uses fastokens for encoding by itself where it agrees."
        )


def copy_tokenizer(tokenizer: _Tokenizer) -> _Tokenizer:
    """Return an independent copy of a tokenizer that shares its immutable vocabulary and merges.

    `copy.deepcopy` would write and read all of them: 0.6 s for Llama 3 instead of 1 ms.
    """
    backend = find_backend(tokenizer)
    return copy.deepcopy(tokenizer, {} if backend is None else {id(backend): clone_backend(backend)})


def encode_raw(tokenizer: TokenizerLike, text: str) -> list[int]:
    """Return the ids of a text without additions; special tokens in it are recognized."""
    return [int(token_id) for token_id in tokenize_raw(tokenizer, text)["input_ids"]]


# A BatchEncoding, whose values depend on the kind of `text`.
def tokenize_raw(tokenizer: TokenizerLike, text: str | list[str]) -> Any:
    """Tokenize one text or several without additions, truncation or padding; special tokens are recognized."""
    return tokenizer(
        text,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=False,
        verbose=False,  # a warning on a long text is also written into the tokenizer
    )


def apply_template(
    tokenizer: TokenizerLike,
    messages: Messages,
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Tool] | None = None,
    template_kwargs: Mapping[str, object] | None = None,
) -> str:
    """Return a conversation as text, rendered by the tokenizer's own `apply_chat_template`.

    Raises:
        PadfixError: The method gave something else than a text. Whatever the template raises passes through.
    """
    text = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) if tools is not None else None,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **(template_kwargs or {}),
    )
    if not isinstance(text, str):
        raise PadfixError(f"apply_chat_template(tokenize=False) gave a {type(text).__name__} instead of a text.")
    return text


def render_or_none(
    tokenizer: TokenizerLike,
    messages: Messages,
    kwargs: Mapping[str, object] | None = None,
    *,
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool = False,
) -> str | None:
    """Return a rendered conversation; None where the template refuses it."""
    try:
        return apply_template(
            tokenizer, messages, tools=tools, add_generation_prompt=add_generation_prompt, template_kwargs=kwargs
        )
    except Exception:  # a template is a program of its author: it may raise anything
        return None


def count_leading(ids: Sequence[int], token_id: int | None) -> int:
    """Return how many times `token_id` stands at the beginning of `ids`."""
    count = 0
    while token_id is not None and count < len(ids) and ids[count] == token_id:
        count += 1
    return count


@contextlib.contextmanager
def preserve_backend_state(tokenizer: TokenizerLike) -> Iterator[None]:
    """Restore on exit what a call resets in a fast tokenizer's backend: truncation, padding, reading of specials.

    Special tokens are read until then: a call may have left them to be read as text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding, as_text = backend.truncation, backend.padding, backend.encode_special_tokens
    if as_text:
        backend.encode_special_tokens = False
    try:
        yield
    finally:
        if truncation != backend.truncation:
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
        if padding != backend.padding:
            backend.enable_padding(**padding) if padding else backend.no_padding()
        if as_text != backend.encode_special_tokens:  # in a fork a write may wait for a thread that is not there
            backend.encode_special_tokens = as_text


def is_of_transformers(tokenizer: object) -> bool:
    """Return True if transformers' own methods render and encode: another class might rewrite some texts."""
    names = ("__call__", "apply_chat_template", "get_chat_template", "_encode_plus", "_batch_encode_plus")
    found = [getattr(type(tokenizer), name, None) for name in names]
    own = any(name in vars(tokenizer) for name in names)
    return not own and all(one is None or one.__module__.startswith("transformers.") for one in found)
