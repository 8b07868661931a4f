"""Which assistant messages of a conversation are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from llama_padfix.core.errors import PadfixError, describe

__all__ = ["TrainOn", "choose_turns", "require_train_on"]

TrainOn = Literal["assistant", "last"] | Mapping[str, Sequence[str]] | Callable[[Mapping[str, Any], int], bool]
"""Every assistant message, the last one, those of the roles, or those of which a callable says so."""


def require_train_on(train_on: object) -> None:
    """Raise `PadfixError` for a `train_on` that is not known."""
    if callable(train_on) or train_on in ("assistant", "last"):
        return
    if isinstance(train_on, Mapping) and set(train_on) == {"roles"} and isinstance(train_on["roles"], list | tuple):
        if set(train_on["roles"]) == {"assistant"}:
            return
        raise PadfixError(
            f"train_on={train_on!r}: only the model's own turns can be trained, and a template marks no others. "
            "Use {'roles': ['assistant']}, or train the whole text: rows of the shape {'text': ...}"
        )
    raise PadfixError(
        f"train_on={train_on!r} is not known. Use one of: 'assistant', 'last', {{'roles': ['assistant']}}, "
        "or a callable(message, index) -> bool."
    )


def choose_turns(
    messages: Sequence[dict[str, Any]], train_on: TrainOn, trained_from: int = 0
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the messages without the keys that say what is trained, and the indices of the trained ones.

    Raises `PadfixError` where no message is left to train on.
    """
    spoken = [at for at, message in enumerate(messages) if message["role"] == "assistant" and at >= trained_from]
    wanted = [at for at in spoken if _weighs(messages[at], at)]
    plain = [{key: value for key, value in message.items() if key not in ("train", "weight")} for message in messages]
    if callable(train_on):
        wanted = [at for at in wanted if train_on(plain[at], at)]
    elif train_on == "last":
        wanted = [at for at in wanted if at == spoken[-1]]
    if not wanted:
        raise PadfixError(
            "there is no assistant message to train on"
            + (" (train_on, `train` and `weight` leave none)" if spoken else "")
            + ". Add the answer, or drop such rows: on_error='drop'"
        )
    return plain, wanted


def _weighs(message: Mapping[str, Any], index: int) -> bool:
    train, weight = message.get("train", True), message.get("weight", 1)
    if not isinstance(train, bool) or weight not in (0, 1):
        raise PadfixError(
            f"message {index} has train={describe(train)} and weight={describe(weight)}; a turn is trained or it is "
            "not: write train: true or false, or weight: 0 or 1."
        )
    return train and bool(weight)
