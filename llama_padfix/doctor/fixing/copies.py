"""Which copies that a trainer keeps are out of date, as changes; pure functions of the facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Change
from llama_padfix.doctor.token_policy import as_ids, stop_ids


def follow_changes(before: Facts, now: Facts) -> Iterator[Change]:
    """Yield the changes that let a trainer's copies, and pad ids in a collate function, follow tokenizer and model.

    A copy of a pad or EOS follows where it held what the tokenizer held before. A list of stop ids follows where the
    tokenizer's EOS or the model's list was changed, and lacks one of the ids.

    Args:
        before: what was observed before the tokenizer and the model were changed.
        now: what is observed now.
    """
    for target, kind, held in now.trainer.copies if now.trainer is not None else ():
        if kind == "stop ids":
            if _stops_of(before) != _stops_of(now):
                yield from complete_stops(target, held, now)
            continue
        name = {"pad id": "pad_token_id", "pad token": "pad_token", "eos id": "eos_token_id"}.get(kind, "eos_token")
        old, new = getattr(before, name), getattr(now, name)
        is_copy = held == old if old is not None else held is None  # what could not pad
        if is_copy and new not in (None, old):
            why = f"the trainer keeps a copy of the tokenizer's {name}, and reads it from there"
            yield Change(target, held, new, why)
    for target, held, can_be_set in now.held_ids:
        if can_be_set and _is_old_pad(held, before, now):
            yield Change(target, held, now.pad_token_id, "the collate function pads with the id that is kept there")


def describe_held(before: Facts, now: Facts, taken_back: Sequence[Change]) -> Iterator[str]:
    """Yield a line for each pad id that only its line of code can change, where the pad token was, or was to be."""
    tokens = [now.pad_token, *(change.after for change in taken_back if change.target == "tokenizer.pad_token")]
    token = str(tokens[-1])
    for target, held, can_be_set in before.held_ids:
        if not can_be_set and held == before.pad_token_id != (token_id := now.vocabulary.get(token)):
            again = ", and fix again" if tokens[1:] else ""
            yield f"{target}: {held} is the pad id there. Write {token_id} for it ({token!r}){again}."


def _is_old_pad(held: int, before: Facts, now: Facts) -> bool:
    return held == before.pad_token_id and now.pad_token_id not in (None, held)


def complete_stops(target: str, held: object, facts: Facts) -> Iterator[Change]:
    """Yield the change that completes a trainer's own list of stop ids; none where it is complete."""
    present = as_ids(held)
    kept = [token_id for token_id in present if token_id in facts.special_ids.values()]
    after = tuple(dict.fromkeys((*kept, *stop_ids(facts))))
    if not set(after) <= set(present):
        missing = ", ".join(str(token_id) for token_id in after if token_id not in present)
        yield Change(target, held, after, f"the rollouts of the trainer must also stop at {missing}")


def _stops_of(facts: Facts) -> object:
    return facts.eos_token_id, facts.model and facts.model.generation_eos_token_id
