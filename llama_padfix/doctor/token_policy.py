"""The policy on pad and stop tokens, as pure functions of the facts; every check that changes one calls these."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from llama_padfix.doctor.facts import Facts, ModelFacts
from llama_padfix.doctor.findings import Change
from llama_padfix.tokens.control import TEXT_END_TOKEN

_LLAMA_STOP_TOKENS = (TEXT_END_TOKEN, "<|eom_id|>", "<|eot_id|>")  # `stop_tokens` in llama_models/llama3/tokenizer.py
_RIGHT_PAD_TOKEN = "<|finetune_right_pad_id|>"
# What other families pad with, the dedicated tokens first; <unk> is what Llama 2 and Mistral recipes use.
_FAMILY_PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|PAD_TOKEN|>", "<|vision_pad|>", "<|endoftext|>", "<unk>")
# The letters of a name that says padding and nothing else, in whatever brackets and bars: `<｜▁pad▁｜>` of DeepSeek.
_PAD_NAMES = frozenset({"pad", "padtoken", "padding", "paddingtoken", "padid", "rightpad", "finetunerightpad"})


@dataclass(frozen=True)
class PadChoice:
    """A pad token from the vocabulary and the reason for it."""

    token: str
    token_id: int
    why: str


@dataclass(frozen=True)
class PadFault:
    """What is wrong with a pad token: it has no usable id, must be learned, or stands in rows as itself."""

    kind: Literal["no id", "learned", "in text"]
    message: str


def learned_stop_ids(facts: Facts) -> frozenset[int]:
    """Return the ids that the model must learn to produce to stop: never to be hidden as padding.

    With a chat template, what ends its turns; else the tokenizer's EOS.
    """
    stop_id = facts.template.stop_token_id if facts.template is not None else None
    ids = {stop_id if stop_id is not None else facts.eos_token_id, facts.special_ids.get("<|eom_id|>")}
    return frozenset(token_id for token_id in ids if token_id is not None)


def stop_ids(facts: Facts) -> tuple[int, ...]:
    """Return every id at which generation must end, those that the model already lists first.

    These are the control tokens that the model lists, the tokenizer's EOS, what ends a turn in the template, and
    Llama's own end of text, of message and of turn where the vocabulary has them. Ordinary text in the model's list is
    left out: the default of `LlamaConfig` is 2, which is `#` in Llama 3's vocabulary.
    """
    controls = set(facts.special_ids.values())
    model = facts.model or ModelFacts()
    listed = (*as_ids(model.generation_eos_token_id), *as_ids(model.config_eos_token_id))
    ends: list[int | None] = [facts.special_ids.get(token) for token in _LLAMA_STOP_TOKENS]
    ends += [facts.eos_token_id, facts.template.stop_token_id if facts.template is not None else None]
    kept = [token_id for token_id in listed if token_id in controls]
    return tuple(dict.fromkeys(kept + sorted(token_id for token_id in ends if token_id is not None)))


def as_ids(held: Any) -> tuple[int, ...]:  # whatever a config or a trainer holds
    """Return what is held as `eos_token_id`, one id or several or none, as a tuple."""
    return () if held is None else (held,) if isinstance(held, int) else tuple(held)


def find_pad_fault(facts: Facts) -> PadFault | None:
    """Return what is wrong with the pad token that is set; None when it is sound, was requested, or is not set."""
    return None if facts.pad_token is None else _find_fault(facts, facts.pad_token)


def choose_pad_token(facts: Facts) -> PadChoice | None:
    """Return the pad token by policy, the first that fits, or None when the vocabulary offers none.

    In order: the one that was requested; a sound one that is already set; `<|end_of_text|>` where it is not what the
    model must learn; `<|finetune_right_pad_id|>`; a reserved special token; one that is named a padding token
    (`<｜▁pad▁｜>`); what the family uses; one that is set and stands in text besides. Never a new token, so the
    embedding keeps its size.
    """
    for token, why in _list_candidates(facts):
        if _find_fault(facts, token) is None:
            return PadChoice(token, facts.vocabulary[token], why)
    current, fault = facts.pad_token, find_pad_fault(facts)
    if facts.requested_pad_token is None and current is not None and fault is not None and fault.kind == "in text":
        return PadChoice(current, facts.vocabulary[current], "already set, and the vocabulary offers nothing better")
    return None


def explain_candidates(facts: Facts) -> tuple[str, ...]:
    """Return why each candidate of the policy that the vocabulary holds is none, in the policy's order."""
    named = dict.fromkeys(token for token, _ in _list_candidates(facts) if token in facts.vocabulary)
    return tuple(fault.message for token in named if (fault := _find_fault(facts, token)) is not None)


def _list_candidates(facts: Facts) -> list[tuple[str, str]]:
    """Return the tokens that the policy looks at, in its order, each with the reason for it."""
    if facts.requested_pad_token is not None:
        return [(facts.requested_pad_token, "asked for by pad_token=")]
    stop_token = facts.template.stop_token if facts.template is not None else None
    reserved = sorted((i, token) for token, i in facts.special_ids.items() if "reserved_special_token" in token)
    spelled = sorted((i, token) for token, i in facts.special_ids.items() if _is_pad_name(token))
    spelled = [(i, token) for i, token in spelled if token not in _FAMILY_PAD_TOKENS]
    return [
        *([(facts.pad_token, "already set, and sound")] if facts.pad_token is not None else []),
        (
            TEXT_END_TOKEN,
            f"ends a text and never a turn (that is {stop_token or facts.eos_token}), so nothing to learn is hidden",
        ),
        (_RIGHT_PAD_TOKEN, "Llama's own padding token, already in the vocabulary"),
        *((token, "a reserved special token that nothing else uses") for _, token in reserved[:1]),
        *((token, "the vocabulary's own padding token") for _, token in spelled),
        *((token, "what this family of models pads with") for token in _FAMILY_PAD_TOKENS),
    ]


def _is_pad_name(token: str) -> bool:
    """Return True for a name that says padding and nothing else, whatever its brackets are made of."""
    letters = re.sub(r"[\W_\u2581]", "", unicodedata.normalize("NFKC", token).lower())
    return letters.rstrip("0123456789") in _PAD_NAMES


def change_pad_token(facts: Facts, code: str = "") -> tuple[Change, ...]:
    """Return the change that gives the tokenizer the pad token of the policy; empty when there is none to choose.

    Args:
        facts: what was observed.
        code: the check that asks for it; `Check.found` sets it as well.
    """
    choice = choose_pad_token(facts)
    if choice is None or choice.token == facts.pad_token:
        return ()
    why = f"{choice.token} ({choice.token_id}): {choice.why}"
    return (Change("tokenizer.pad_token", facts.pad_token, choice.token, why, code=code),)


def _find_fault(facts: Facts, token: str) -> PadFault | None:
    token_id = facts.vocabulary.get(token)
    rows = facts.model.embedding_rows if facts.model is not None else None
    if token_id is None:
        return PadFault("no id", f"{token!r} is not in the vocabulary, so it has no id")
    if rows is not None and token_id >= rows:
        return PadFault("no id", f"{token!r} has id {token_id}, and the embedding has {rows} rows")
    if token == facts.requested_pad_token:
        return None
    if token_id in learned_stop_ids(facts):
        return PadFault("learned", f"{token!r} ({token_id}) is what the model must learn to produce, to stop")
    if token_id == facts.bos_token_id:
        return PadFault("in text", f"{token!r} ({token_id}) is the BOS, with which every row begins")
    if token not in facts.special_ids and token not in _FAMILY_PAD_TOKENS:
        return PadFault("in text", f"{token!r} ({token_id}) is ordinary text")
    return None
