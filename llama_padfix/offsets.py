"""Texts to ids with the characters that each token covers, leaving the tokenizer as it was."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from operator import ge
from typing import Any

from llama_padfix.observe import find_control_text
from llama_padfix.records import PadfixError

__all__ = ["Encoded", "encode_around", "encode_texts"]

Encoded = tuple[list[int], list[tuple[int, int]]]
"""The ids of a text and the (start, end) characters that each token covers."""


def encode_texts(tokenizer: Any, texts: list[str], *, split_special_tokens: bool = False) -> list[Encoded]:
    """Return the ids and offsets of each text, nothing added and nothing cut.

    With `split_special_tokens` a special token in a text is encoded as the text that it is. Raises `PadfixError`
    where the tokenizer does not say which characters a token covers.
    """
    if not texts:
        return []
    if not getattr(tokenizer, "is_fast", False):
        raise PadfixError(
            f"{type(tokenizer).__name__} does not say which characters a token covers, so the "
            "labels cannot be placed. Load the fast tokenizer: AutoTokenizer.from_pretrained(name, use_fast=True)"
        )
    encoding = tokenizer(
        texts,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        split_special_tokens=split_special_tokens,
        verbose=False,  # a warning on a long text is also written into the tokenizer
    )
    pieces = list(zip(encoding["input_ids"], encoding["offset_mapping"], strict=True))
    # tokenizers 0.19 gives offsets of no width, others hide white space: then the labels cannot be placed.
    if any(any(starmap(ge, offsets)) for _, offsets in pieces):
        raise PadfixError(
            "The tokenizer gives tokens without a place in the text (offsets of no width), so the labels cannot be "
            "placed. Update it: pip install -U tokenizers transformers"
        )
    return pieces


def encode_around(tokenizer: Any, text: str, spelled: Sequence[tuple[int, int]], controls: tuple[str, ...]) -> Encoded:
    """Return the ids and offsets of a text cut at its control tokens: what lies between is text, whatever it spells.

    `spelled` are the (start, end) characters that only look like one of the `controls`.
    """
    masked, last = [], 0
    for start, end in spelled:
        masked += [text[last:start], "\0" * (end - start)]
        last = end
    found = find_control_text("".join([*masked, text[last:]]), controls)
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    position = 0
    for start, end, _ in [*found, (len(text), len(text), "")]:
        for left, right, as_text in ((position, start, True), (start, end, False)):
            if left < right:
                [(more_ids, more)] = encode_texts(tokenizer, [text[left:right]], split_special_tokens=as_text)
                ids += more_ids
                offsets += [(begin + left, until + left) for begin, until in more]
        position = end
    return ids, offsets
