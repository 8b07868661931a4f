"""The house rules on pad and stop tokens, as pure functions of the facts; every check that heals one asks here."""

from __future__ import annotations

from dataclasses import dataclass

from llama_padfix.records import Change, Facts

__all__ = ["PadChoice", "change_pad_token", "choose_pad_token", "explain_bad_pad", "learned_stop_ids", "stop_ids"]

TEXT_END_TOKEN = "<|end_of_text|>"
_LLAMA_STOP_TOKENS = (TEXT_END_TOKEN, "<|eom_id|>", "<|eot_id|>")  # `stop_tokens` in llama_models/llama3/tokenizer.py
_RIGHT_PAD_TOKEN = "<|finetune_right_pad_id|>"
# What other families pad with, the dedicated tokens first; <unk> is what Llama 2 and Mistral recipes use.
_FAMILY_PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|PAD_TOKEN|>", "<|vision_pad|>", "<|endoftext|>", "<unk>")


@dataclass(frozen=True)
class PadChoice:
    """A pad token from the vocabulary and the reason for it."""

    token: str
    token_id: int
    why: str


def learned_stop_ids(facts: Facts) -> frozenset[int]:
    """Return the ids that the model must learn to produce to stop: never to be hidden as padding.

    With a chat template, what ends its turns; else the tokenizer's EOS.
    """
    stop_id = facts.template.stop_token_id if facts.template is not None else None
    ids = {stop_id if stop_id is not None else facts.eos_token_id, facts.special_ids.get("<|eom_id|>")}
    return frozenset(token_id for token_id in ids if token_id is not None)


def stop_ids(facts: Facts) -> tuple[int, ...]:
    """Return every id at which generation must end, those that the model already lists first.

    The list held by the generation config (or the config), the tokenizer's EOS, what ends a turn in the
    template, and Llama's own end of text, of message and of turn where the vocabulary has them.
    """
    ids: list[int | None] = []
    if facts.model is not None:
        for held in (facts.model.generation_eos_token_id, facts.model.config_eos_token_id):
            ids += [held] if held is None or isinstance(held, int) else list(held)
    found: list[int | None] = [facts.special_ids.get(token) for token in _LLAMA_STOP_TOKENS]
    found += [facts.eos_token_id, facts.template.stop_token_id if facts.template is not None else None]
    ids += sorted(token_id for token_id in found if token_id is not None)
    return tuple(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def explain_bad_pad(facts: Facts) -> str | None:
    """Return what is wrong with the pad token that is set, or None when it will do."""
    token, token_id = facts.pad_token, facts.pad_token_id
    if token is None:
        return "no pad token is set"
    if token_id is None:
        return f"the pad token {token!r} is not in the vocabulary"
    if _is_outside_embedding(facts, token_id):
        return f"the pad token {token!r} has id {token_id}, beyond the embedding"
    if token_id in learned_stop_ids(facts):
        return f"the pad token {token!r} ({token_id}) is a token that the model must learn to produce"
    return None


def choose_pad_token(facts: Facts) -> PadChoice | None:
    """Return the pad token by policy, the first that fits, or None when the vocabulary offers none.

    In order: the one asked for; a sound one that is already set; `<|end_of_text|>` where it is not what the
    model must learn; `<|finetune_right_pad_id|>`; a reserved special token; what the family uses. Never a new
    token, so the embedding keeps its size.
    """
    asked = facts.requested_pad_token
    if asked is not None:
        token_id = facts.vocabulary.get(asked)
        if token_id is None or _is_outside_embedding(facts, token_id):
            return None
        return PadChoice(asked, token_id, "asked for by pad_token=")
    if facts.pad_token is not None and facts.pad_token_id is not None and explain_bad_pad(facts) is None:
        return PadChoice(facts.pad_token, facts.pad_token_id, "already set, and sound")

    stop_token = facts.template.stop_token if facts.template is not None else facts.eos_token
    reserved = sorted((i, token) for token, i in facts.special_ids.items() if "reserved_special_token" in token)
    candidates = [
        (TEXT_END_TOKEN, f"ends a text and never a turn (that is {stop_token}), so nothing to learn is hidden"),
        (_RIGHT_PAD_TOKEN, "Llama's own padding token, already in the vocabulary"),
        *((token, "a reserved special token that nothing else uses") for _, token in reserved[:1]),
        *((token, "what this family of models pads with") for token in _FAMILY_PAD_TOKENS),
    ]
    forbidden = learned_stop_ids(facts) | {facts.bos_token_id}
    for token, why in candidates:
        token_id = facts.vocabulary.get(token)
        if token_id is not None and token_id not in forbidden and not _is_outside_embedding(facts, token_id):
            return PadChoice(token, token_id, why)
    return None


def change_pad_token(facts: Facts, code: str) -> tuple[Change, ...]:
    """Return the change that gives the tokenizer the pad token of the policy; empty when there is none to choose."""
    choice = choose_pad_token(facts)
    if choice is None or choice.token == facts.pad_token:
        return ()
    why = f"{choice.token} ({choice.token_id}): {choice.why}"
    return (Change("tokenizer.pad_token", facts.pad_token, choice.token, why, code=code),)


def _is_outside_embedding(facts: Facts, token_id: int) -> bool:
    rows = facts.model.embedding_rows if facts.model is not None else None
    return rows is not None and token_id >= rows
