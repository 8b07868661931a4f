"""Which tokens of a tokenizer are control tokens, and where a text spells one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from llama_padfix.tokens.calls import tokenize_raw

_LOOKS_LIKE_CONTROL = re.compile(r"<[|\uff5c]\S+>|<\S+[|\uff5c]>|\[/?[A-Z][A-Z_]+\]").fullmatch
_IS_TAG = re.compile(r"[<\[].*\w.*", re.DOTALL).fullmatch  # it begins with a bracket and holds a word


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Return the content and id of every control token: those that encoding cuts out of the text first.

    A named token counts only where it was added as a token: an ordinary piece such as `!`, that somebody pads
    with, is still text.
    """
    named = set(tokenizer.all_special_tokens)
    decoder = tokenizer.added_tokens_decoder
    return {str(token): int(i) for i, token in decoder.items() if token.special or str(token) in named}


def find_tags(tokenizer: Any, source: str) -> tuple[str, ...]:
    """Return the ordinary added tokens with which a template steers the model, such as `<think>` and `<tool_call>`.

    `source` is that of the template. A token counts that stands in it, or that looks like control (`<|...|>`,
    `[CAPITALS]`); words, punctuation, runs of white space and HTML tags, which some vocabularies (Gemma's) add as
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
    """Return (start, end, token) of every control token spelled in a text, the longest where two begin together."""
    if not controls:
        return []
    return [(match.start(), match.end(), match.group()) for match in _pattern(controls).finditer(text)]


@lru_cache(maxsize=32)
def _pattern(controls: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(controls, key=len, reverse=True)))


@lru_cache(maxsize=32)
def common_prefix(tokens: tuple[str, ...]) -> str:
    """Return what all control tokens begin with; a text without it spells none."""
    first, last = min(tokens, default=""), max(tokens, default="")
    same = [one == other for one, other in zip(first, last, strict=False)]
    return first[: [*same, False].index(False)]


def find_rewritable(tokenizer: Any, tokens: Sequence[str]) -> tuple[str, ...]:
    """Return those of the added tokens that other text may become: the backend looks for them in normalized text.

    Llama's own tokenizers have no normalizer, and so none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None:
        return ()
    normalized = {token.content for token in tokenizer.added_tokens_decoder.values() if token.normalized}
    return tuple(token for token in tokens if token in normalized)


def find_rewritten(tokenizer: Any, text: str, rewritable: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return (start, end, token) of every token that encoding makes of a text which spells it otherwise.

    `rewritable` are the tokens to look for, see `find_rewritable`. Found in the ids themselves: which text becomes
    such a token depends on the normalizer, and on all other added tokens.
    """
    [encoding] = tokenize_raw(tokenizer, [text]).encodings
    wanted = {tokenizer.convert_tokens_to_ids(token): token for token in rewritable}
    wanted.pop(tokenizer.unk_token_id, None)  # any character that the vocabulary lacks becomes that one
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    found = []
    for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        token = wanted.get(token_id)
        if token is None or text[start:end].strip() == token.strip():  # white space may belong to a token
            continue
        # An accent that melts into the last character lies outside the token's offsets.
        while end < len(text) and unicodedata.combining(text[end]) and normalize(text[start:end]) != normalize(token):
            end += 1
        found.append((start, end, token))
    return found


TEXT_END_TOKEN = "<|end_of_text|>"
# What ends a text in other families, whatever their tokenizer calls its EOS after a chat patch.
_TEXT_END_TOKENS = (TEXT_END_TOKEN, "<|endoftext|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>")


def text_end_id(special_ids: Mapping[str, int], eos_token_id: int | None) -> int | None:
    """Return the id that ends a plain text: the family's own end of text, else the tokenizer's EOS."""
    return next((special_ids[token] for token in _TEXT_END_TOKENS if token in special_ids), eos_token_id)
