"""Where llama.cpp stops and whether it adds a BOS, by the rules of src/llama-vocab.cpp at 0.5.0 and gguf 0.19.0."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from llama_padfix.core.llama_cpp import find_end_tokens
from llama_padfix.serving.engines.files import config_eos, tokenizer_eos
from llama_padfix.serving.engines.llamacpp.vocabulary import find_pre_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from llama_padfix.serving.folder import ServedFolder

_FLAGS = ("lstrip", "rstrip", "single_word")
_WITH_BOS = ("llama-bpe", "tekken")


def find_stops(folder: ServedFolder) -> tuple[int, ...]:
    """Return the ids that end generation by the rules of src/llama-vocab.cpp."""
    eos = tokenizer_eos(folder) or (config_eos(folder) if len(config_eos(folder)) == 1 else ())
    vocabulary = folder.tokenizer.get_vocab()
    return tuple(sorted({*eos, *(vocabulary[token] for token in find_end_tokens(vocabulary))}))


def find_bos(folder: ServedFolder) -> int | None:
    """Return the BOS that llama.cpp puts in front of a prompt that has none; None where it puts none.

    gguf/vocab.py takes `add_bos_token` of tokenizer_config.json, else what the post-processor of tokenizer.json adds;
    src/llama-vocab.cpp adds one for the pre-tokenizers of Llama 3 and tekken where the file says nothing.
    """
    bos_id, written = folder.tokenizer.bos_token_id, folder.tokenizer_config.get("add_bos_token")
    if bos_id is None or written is False:
        return None
    adds = written is True or folder.tokenizer("x")["input_ids"][:1] == [bos_id]
    backend = getattr(folder.tokenizer, "backend_tokenizer", None)
    if not adds and backend is not None and backend.pre_tokenizer is not None:
        splitter = json.loads(backend.pre_tokenizer.__getstate__())  # as in tokenizer.json, without the vocabulary
        model = {"type": type(backend.model).__name__}
        adds = find_pre_tokenizer({"model": model, "pre_tokenizer": splitter}) in _WITH_BOS
    return bos_id if adds else None


def open_encoder(folder: ServedFolder, bos_id: int | None) -> Callable[[str], list[int]] | None:
    """Return what makes the ids of a rendered prompt with `bos_id` in front; None where it is the tokenizer itself.

    llama.cpp reads no flags of added tokens, and normalizes no text of a byte-level BPE.
    """
    backend = _open_plain(folder)
    if backend is None:
        return None

    def encode(text: str) -> list[int]:
        ids = list(backend.encode(text).ids)
        return ids if bos_id is None or ids[:1] == [bos_id] else [bos_id, *ids]

    return encode


def _open_plain(folder: ServedFolder) -> Tokenizer | None:
    """Return the tokenizer without flags and normalizer; None where it has neither."""
    from tokenizers import Tokenizer

    backend = getattr(folder.tokenizer, "backend_tokenizer", None)
    tokens = getattr(folder.tokenizer, "added_tokens_decoder", {}).values()
    flagged = any(getattr(token, flag) for token in tokens for flag in _FLAGS)
    if backend is None or (not flagged and type(backend.normalizer).__name__ != "NFC"):
        return None
    document = json.loads(backend.to_str())
    for token in document["added_tokens"]:
        token.update(dict.fromkeys(_FLAGS, False))
    if find_pre_tokenizer(document) is not None:
        document["normalizer"] = None
    plain = Tokenizer.from_str(json.dumps({**document, "post_processor": None}))
    plain.no_padding()
    plain.no_truncation()
    return plain
