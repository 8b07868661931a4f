"""The copies of pad and stop tokens that a trainer takes when it is made and reads while it trains."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llama_padfix.core.types import TrainerLike

Kind = Literal["pad id", "pad token", "eos id", "eos token", "stop ids"]

COPIES: dict[str, Kind] = {
    "trainer.data_collator.pad_token_id": "pad id",  # collators of TRL and of this library
    "trainer.generation_config.pad_token_id": "pad id",  # GRPO, RLOO
    "trainer.generation_kwargs.pad_token_id": "pad id",
    "trainer.pad_token_id": "pad id",  # TRL before 0.23
    "trainer.padding_value": "pad id",
    "trainer.args.padding_value": "pad id",
    "trainer.args.pad_token": "pad token",
    "trainer.eos_token_id": "eos id",
    "trainer.args.eos_token": "eos token",
    "trainer.eos_token_ids": "stop ids",  # GRPO, RLOO: where a rollout counts as ended
    "trainer.generation_config.eos_token_id": "stop ids",  # where a rollout ends
    "trainer.generation_kwargs.eos_token_id": "stop ids",
}
"""Where a trainer keeps what it read off the tokenizer and the model, by what it is."""

_NEEDED = ("trainer.data_collator.pad_token_id", "trainer.pad_token_id", "trainer.padding_value")
_MISSING = object()


def find_copies(trainer: TrainerLike) -> tuple[tuple[str, str, object], ...]:
    """Return the copies that a trainer keeps, as (target, kind, value); lists as tuples.

    None of them is None but for pad ids without which nothing can be padded.
    """
    found: list[tuple[str, str, object]] = []
    for target, kind in COPIES.items():
        value: Any = trainer
        for name in target.split(".")[1:]:
            value = _read(value, name)
        if isinstance(value, (list, tuple, set)):
            value = tuple(value)
        if isinstance(value, (int, str, tuple)) or (value is None and target in _NEEDED):
            found.append((target, kind, value))
    return tuple(found)


def set_copy(trainer: TrainerLike, target: str, value: object) -> None:
    """Set one copy; a frozen collator is replaced by one with that value."""
    *owners, name = target.split(".")[1:]
    held: list[Any] = [trainer]
    for owner in owners:
        held.append(_read(held[-1], owner))
    last = held[-1]
    if isinstance(last, MutableMapping):
        last[name] = value
    elif is_frozen(last):
        setattr(held[-2], owners[-1], replace(last, **{name: value}))
    else:
        setattr(last, name, value)


def _read(owner: Any, name: str) -> Any:  # whatever a trainer holds
    return owner.get(name, _MISSING) if isinstance(owner, MutableMapping) else getattr(owner, name, _MISSING)


def is_frozen(value: Any) -> bool:
    """Return True for a frozen dataclass."""
    kind = type(value)
    return is_dataclass(kind) and bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]  # typeshed lacks it
