"""Which assistant messages of a conversation are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError, describe

if TYPE_CHECKING:
    from llama_padfix.encoding.settings import TrainOn

__all__ = ["choose_turns"]


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
