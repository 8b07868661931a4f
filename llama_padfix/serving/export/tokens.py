"""Added tokens that engines read otherwise: flags that they do not know, and ids that the embedding does not have."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.doctor.observe.tokenizer import observe_tokenizer
from llama_padfix.doctor.token_policy import choose_pad_token

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.trained import Point

_FLAGS = ("lstrip", "rstrip", "single_word")
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")


def clear_flags(folder: Path, points: Iterable[Point]) -> tuple[str, str]:
    """Take the flags of added tokens away where no trained text gets other ids.

    Args:
        folder: The copy.
        points: The trained points.

    Returns:
        What was changed and what is left, a sentence each; "" for nothing.
    """
    from tokenizers import Tokenizer

    document = _read(folder / "tokenizer.json")
    flags = _FLAGS if document.get("normalizer") is None else (*_FLAGS, "normalized")
    flagged = [token for token in document.get("added_tokens", []) if any(token.get(flag) for flag in flags)]
    if not flagged:
        return "", ""
    texts = list(dict.fromkeys(point.text + point.answer for point in points))
    before = Tokenizer.from_str(json.dumps(document)).encode_batch(texts, add_special_tokens=False)
    for token in flagged:
        token.update(dict.fromkeys(flags, False))
    after = Tokenizer.from_str(json.dumps(document)).encode_batch(texts, add_special_tokens=False)
    differ = sum(one.ids != other.ids for one, other in zip(before, after, strict=True))
    names = _name(token["content"] for token in flagged)
    if differ:
        return "", (
            f"{names}: flags (lstrip, rstrip, single_word) that llama.cpp does not read change "
            f"the ids of {differ} of {len(texts)} trained texts: train without white space around these tokens"
        )
    _write(folder / "tokenizer.json", document)
    config = _read(folder / "tokenizer_config.json")
    for held in (config.get("added_tokens_decoder") or {}).values():
        held.update({flag: False for flag in flags if flag in held})
    _write(folder / "tokenizer_config.json", config)
    return f"added tokens without the flags that engines lose: {names}", ""


def drop_beyond(folder: Path, served: ServedFolder, used: Collection[int], source: str) -> tuple[str, str]:
    """Take added tokens away whose ids the embedding does not have, where the training and the template use none.

    Args:
        folder: The copy.
        served: What was read of the original.
        used: The ids of the training.
        source: The template of the copy.

    Returns:
        What was changed and what is left, a sentence each; "" for nothing.
    """
    size = served.config.get("vocab_size", (served.config.get("text_config") or {}).get("vocab_size"))
    if not isinstance(size, int):
        return "", ""
    document = _read(folder / "tokenizer.json")
    beyond = {token["content"]: token["id"] for token in document.get("added_tokens", []) if token["id"] >= size}
    if not beyond:
        return "", ""
    config = _read(folder / "tokenizer_config.json")
    pad = _text(config.get("pad_token"))
    fixed = {_text(config.get(name)) for name in _NAMED if name != "pad_token"}
    chosen = _choose_pad(served, size) if pad in beyond else pad
    wanted = [token for token, token_id in beyond.items() if token_id in used or token in fixed or token in source]
    if wanted or (pad in beyond and (chosen is None or chosen in beyond)):
        return "", (
            f"{_name(wanted or beyond)}: ids beyond the {size} rows of the embedding, which engines refuse: "
            "resize the embedding and train it, or train without these tokens"
        )
    for name in _FILES:
        if (folder / name).is_file():
            held = document if name == "tokenizer.json" else _read(folder / name)
            held = _without(held, beyond, size)
            if pad in beyond and "pad_token" in held:
                held["pad_token"] = chosen
            _write(folder / name, held)
    more = f"; pad_token = {chosen}" if pad in beyond else ""
    return f"without added tokens beyond the embedding of {size} rows: {_name(beyond)}{more}", ""


def _choose_pad(served: ServedFolder, size: int) -> str | None:
    """Return a pad token of the embedding by the doctor's policy."""
    facts = observe_tokenizer(served.tokenizer)
    vocabulary = {token: token_id for token, token_id in facts.vocabulary.items() if token_id < size}
    special = {token: token_id for token, token_id in facts.special_ids.items() if token_id < size}
    choice = choose_pad_token(replace(facts, pad_token=None, vocabulary=vocabulary, special_ids=special))
    return choice.token if choice is not None else None


def _without(held: JsonObject, beyond: Collection[str], size: int) -> JsonObject:
    """Return a file of tokens without some: lists of tokens, tokens by id, and ids by token."""
    kept: JsonObject = {}
    for key, value in held.items():
        if isinstance(value, list) and key in ("added_tokens", "additional_special_tokens", "extra_special_tokens"):
            kept[key] = [one for one in value if _text(one) not in beyond]
        elif key == "added_tokens_decoder":
            kept[key] = {number: token for number, token in value.items() if int(number) < size}
        elif key not in beyond:
            kept[key] = value
    return kept


def _text(held: Any) -> str | None:  # a token as a file holds it
    text = held.get("content") if isinstance(held, dict) else held
    return text if isinstance(text, str) else None


def _name(tokens: Iterable[str]) -> str:
    names = list(tokens)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _read(file: Path) -> JsonObject:
    held: JsonObject = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return held


def _write(file: Path, held: JsonObject) -> None:
    file.write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
