"""Whether a tokenizer's ids of a text are those of its parts, when it is cut beside its control tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llama_padfix.tokens.calls import is_of_transformers, preserve_backend_state
from llama_padfix.tokens.offsets import is_trimmed

if TYPE_CHECKING:
    from tokenizers.models import Model
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer

    from llama_padfix.core.types import TokenizerLike

# Pre-tokenizers that depend on nothing but the text that they are given, and keep all of it.
_LOCAL = {"ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts"}
# cl100k (Phi 4, GPT-4) keeps all of a text: letters, numbers, white space and all else have an alternative each.
_KEEPS_ALL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
_KEEPS_ALL += r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LOSSLESS = ({"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})
_SPACE_IN_FRONT = {"type": "Prepend", "prepend": "\u2581"}


def parts_at_controls(tokenizer: TokenizerLike) -> bool:
    """Return True if a text's ids are those of its parts, when it is cut beside a control token, and spell the text.

    The backend cuts control tokens out of a text first, and then treats what is between them one by one; only a
    random model (BPE with dropout) gives others, or a pre-tokenizer that treats a text's beginning differently
    (`Metaspace`), where a text does not begin with a control token. Ids spell the text where they are those of BPE on
    all bytes: equal ids in front of an answer then stand for equal characters. A normalizer goes with tokens that
    cover characters only: otherwise the batch encoder could encode rows that the row encoder refuses, and which rows
    are refused would depend on their batch.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not getattr(tokenizer, "is_fast", False) or not is_of_transformers(tokenizer):
        return False
    try:
        normalizers, pre_tokenizers = _kinds(backend.normalizer), _kinds(backend.pre_tokenizer)
    except Exception:  # one that is written in Python
        return False
    by_bytes = any(one.get("type") == "ByteLevel" for one in pre_tokenizers)
    if not by_bytes:  # SentencePiece writes a space in front of each part by itself, or of a text's first part
        pre_tokenizers = [one for one in pre_tokenizers if one.get("type") != "Metaspace"]
    return (
        all(one.get("type") in _LOCAL and not _removes(one) for one in pre_tokenizers)
        and not any(one.get("add_prefix_space") for one in pre_tokenizers)
        and all(one in _LOSSLESS or (one == _SPACE_IN_FRONT and not by_bytes) for one in normalizers)
        and _knows_all_bytes(backend.model, by_bytes)
        and not (normalizers and _is_trimmed(tokenizer))
    )


def _removes(pre_tokenizer: Mapping[str, Any]) -> bool:  # as JSON
    """Return True if a pre-tokenizer may leave out characters."""
    is_known = pre_tokenizer.get("invert") is True and pre_tokenizer.get("pattern") == {"Regex": _KEEPS_ALL}
    return pre_tokenizer.get("behavior") == "Removed" and not is_known


def _is_trimmed(tokenizer: TokenizerLike) -> bool:
    with preserve_backend_state(tokenizer):
        return is_trimmed(tokenizer)


def _knows_all_bytes(model: Model, by_bytes: bool) -> bool:
    from tokenizers import models, pre_tokenizers

    if not isinstance(model, models.BPE) or model.dropout:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix or not (by_bytes or model.byte_fallback):
        return False
    alphabet = pre_tokenizers.ByteLevel.alphabet() if by_bytes else [f"<0x{byte:02X}>" for byte in range(256)]
    return all(model.token_to_id(char) is not None for char in alphabet)


def _kinds(part: Normalizer | PreTokenizer | None) -> list[Mapping[str, Any]]:  # as JSON
    """Return the settings of a normalizer or pre-tokenizer, or of those that it is a sequence of."""
    found = [json.loads(part.__getstate__())] if part is not None else []
    return [one for settings in found for one in _flatten(settings)]


def _flatten(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:  # as JSON
    inner = settings.get("normalizers", settings.get("pretokenizers"))
    return [settings] if inner is None else [one for part in inner for one in _flatten(part)]
