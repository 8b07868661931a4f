"""Which tokens of a tokenizer are control tokens, and where a text spells one."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from llama_padfix.tokens.calls import tokenize_raw

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike

_LOOKS_LIKE_CONTROL = re.compile(r"<[|\uff5c]\S+>|<\S+[|\uff5c]>|\[/?[A-Z][A-Z_]+\]").fullmatch
_IS_TAG = re.compile(r"[<\[].*\w.*", re.DOTALL).fullmatch  # a bracket and later a word


def special_ids(tokenizer: TokenizerLike) -> dict[str, int]:
    """Return the id of every control token, by content: the tokens that encoding cuts out of a text first.

    A named token counts only where it was added as a token: an ordinary piece such as `!`, used as the pad token, is
    still text.
    """
    named = set(tokenizer.all_special_tokens)
    decoder = tokenizer.added_tokens_decoder
    return {str(token): int(i) for i, token in decoder.items() if token.special or str(token) in named}


def find_tags(tokenizer: TokenizerLike, source: str) -> tuple[str, ...]:
    """Return the tags of a template: ordinary added tokens that steer the model, such as `<think>` and `<tool_call>`.

    A token is a tag if it stands in `source`, the template's source, or looks like a control token (`<|...|>`,
    `[CAPITALS]`). Words, punctuation, runs of white space and HTML tags, which some vocabularies (Gemma's) add as
    well, are text.
    """
    controls = special_ids(tokenizer)
    contents = (str(token) for token in tokenizer.added_tokens_decoder.values())
    return tuple(
        content
        for content in contents
        if content not in controls and (_LOOKS_LIKE_CONTROL(content) or (_IS_TAG(content) and content in source))
    )


def find_control_text(text: str, controls: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """Return (start, end, token) of every control token spelled in a text; the longest where two begin together."""
    if not controls:
        return []
    return [(match.start(), match.end(), match.group()) for match in _pattern(controls).finditer(text)]


@lru_cache(maxsize=32)
def _pattern(controls: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(controls, key=len, reverse=True)))


@lru_cache(maxsize=32)
def common_prefix(tokens: tuple[str, ...]) -> str:
    """Return the longest prefix of all tokens; a text without it spells none of them."""
    first, last = min(tokens, default=""), max(tokens, default="")
    same = [one == other for one, other in zip(first, last, strict=False)]
    return first[: [*same, False].index(False)]


def rewrites_text(tokenizer: TokenizerLike) -> bool:
    """Return True if the tokenizer's backend has a normalizer, other than a sequence of none (DeepSeek V3)."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None:
        return False
    try:
        settings = json.loads(normalizer.__getstate__())
    except Exception:  # one that is written in Python
        return True
    return not (settings.get("type") == "Sequence" and settings.get("normalizers") == [])


def find_rewritable(tokenizer: TokenizerLike, tokens: Sequence[str]) -> tuple[str, ...]:
    """Return the added tokens that are matched in normalized text, so that another spelling may become one.

    There are none for Llama's own tokenizers, which have no normalizer.
    """
    if not rewrites_text(tokenizer):
        return ()
    normalized = {token.content for token in tokenizer.added_tokens_decoder.values() if token.normalized}
    return tuple(token for token in tokens if token in normalized)


def find_rewritten(tokenizer: TokenizerLike, text: str, rewritable: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return (start, end, token) of every token in the ids of a text that the text spells differently.

    `rewritable` are the tokens to look for, from `find_rewritable`. The ids decide, because which text becomes such a
    token depends on the normalizer and on all other added tokens.
    """
    [encoding] = tokenize_raw(tokenizer, [text]).encodings
    searched = {tokenizer.convert_tokens_to_ids(token): token for token in rewritable}
    searched.pop(tokenizer.unk_token_id, None)  # any character outside the vocabulary becomes the unknown token
    normalizer = tokenizer.backend_tokenizer.normalizer
    assert normalizer is not None  # without one no token is rewritable
    normalize = normalizer.normalize_str
    found = []
    for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        token = searched.get(token_id)
        if token is None or text[start:end].strip() == token.strip():  # white space may belong to a token
            continue
        # An accent that melts into the last character lies outside the token's offsets.
        while end < len(text) and unicodedata.combining(text[end]) and normalize(text[start:end]) != normalize(token):
            end += 1
        found.append((start, end, token))
    return found


TEXT_END_TOKEN = "<|end_of_text|>"
# The end-of-text tokens of other families, whose EOS may be another token after a chat patch.
_TEXT_END_TOKENS = (TEXT_END_TOKEN, "<|endoftext|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>")


def text_end_id(special_ids: Mapping[str, int], eos_token_id: int | None) -> int | None:
    """Return the id that ends a text without turns: the family's own end-of-text token, else the EOS."""
    return next((special_ids[token] for token in _TEXT_END_TOKENS if token in special_ids), eos_token_id)
