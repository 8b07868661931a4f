"""Which assistant messages of a conversation are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError, describe

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, MessageDict, Messages
    from llama_padfix.encoding.settings import TrainOn


class UntrainedError(PadfixError):
    """A conversation in which no message is to be trained: it can be read, and there is nothing to learn from it."""


def choose_turns(messages: Messages, train_on: TrainOn, trained_from: int = 0) -> tuple[list[MessageDict], list[int]]:
    """Return the messages without the keys `train` and `weight`, and the indices of the trained ones.

    Raises `UntrainedError` where no message is left to train on.
    """
    candidates = [at for at, message in enumerate(messages) if message["role"] == "assistant" and at >= trained_from]
    trained = [at for at in candidates if _counts(messages[at], at)]
    plain = [{key: value for key, value in message.items() if key not in ("train", "weight")} for message in messages]
    if callable(train_on):
        trained = [at for at in trained if train_on(plain[at], at)]
    elif train_on == "last":
        trained = [at for at in trained if at == candidates[-1]]
    if not trained:
        raise UntrainedError(
            "there is no assistant message to train on"
            + (" (train_on, `train` and `weight` leave none)" if candidates else "")
            + ". Add the answer, or drop such rows: on_error='drop'"
        )
    return plain, trained


def _counts(message: Message, index: int) -> bool:
    """Return False for a message with `train: false` or `weight: 0`."""
    train, weight = message.get("train", True), message.get("weight", 1)
    if not isinstance(train, bool) or weight not in (0, 1):
        raise PadfixError(
            f"message {index} has train={describe(train)} and weight={describe(weight)}; a turn is trained or it is "
            "not: write train: true or false, or weight: 0 or 1."
        )
    return train and bool(weight)
