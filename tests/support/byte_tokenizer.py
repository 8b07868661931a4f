"""A tokenizer with a token for every byte and for a few control tokens: ids show each character of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MERGES = (("Ċ", "Ċ"), ("Ġ", "T"), (":", "Ċ"), ("Ġ", "Ġ"), ("e", "s"), ("Y", "es"))


def make_byte_tokenizer(
    special: Sequence[str],
    eos: str,
    *,
    template: str | None = None,
    bos: str | None = None,
    soft: Sequence[str] = (),
    merges: Sequence[tuple[str, str]] = (),
) -> Any:
    """Return a byte-level tokenizer; `soft` tokens are added tokens that are not listed as special."""
    vocabulary = {char: at for at, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    backend = Tokenizer(models.BPE(vocabulary, [*merges]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    names = {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=[*special], **names)
    if soft:
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in soft])
    tokenizer.chat_template = template
    return tokenizer
