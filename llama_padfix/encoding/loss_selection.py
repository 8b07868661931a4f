"""Which assistant messages of a conversation are trained."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError, describe

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, MessageDict, Messages
    from llama_padfix.encoding.settings import TrainOn


TRAINING_KEYS: Mapping[str, bool] = MappingProxyType(
    dict.fromkeys(("train", "weight", "loss", "loss_mask", "step_loss_mask", "trainable", "training"), True)
    | {"masked": False}
)
"""The keys by which a message says whether it is trained, to the value that trains it.

`weight` is OpenAI's and Axolotl's, `loss` ms-swift's, `loss_mask` and `trainable` verl's, `step_loss_mask` slime's,
`training` and `train` Axolotl's, `masked` torchtune's.
"""

_PARTS = ("train_detail", "training_detail")  # Axolotl's, which train parts of a message
_SAYING = frozenset({*TRAINING_KEYS, *_PARTS})
_ONLY_BOOL = ("train", "training", "masked")


class UntrainedError(PadfixError):
    """A conversation in which no message is to be trained: it can be read, and there is nothing to learn from it."""


def choose_turns(messages: Messages, train_on: TrainOn, trained_from: int = 0) -> tuple[list[MessageDict], list[int]]:
    """Return the messages without `TRAINING_KEYS`, and the indices of the trained ones.

    Raises `UntrainedError` where no message is left to train on.
    """
    candidates = [at for at, message in enumerate(messages) if message["role"] == "assistant" and at >= trained_from]
    trained = [at for at in candidates if _counts(messages[at], at)]
    plain = [{key: value for key, value in message.items() if key not in TRAINING_KEYS} for message in messages]
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
    """Return False for a message that says it is not trained, such as `train: false` or `weight: 0`."""
    if _SAYING.isdisjoint(message):
        return True
    said: dict[str, bool] = {}
    for key, trains in TRAINING_KEYS.items():
        value = message.get(key)
        if value is None:
            continue
        if value not in (0, 1) or (key in _ONLY_BOOL and not isinstance(value, bool)):
            form = (
                "true or false" if key in _ONLY_BOOL else "0 or 1" if key == "weight" else "true or false, or 0 or 1"
            )
            raise PadfixError(
                f"message {index} has {key}={describe(value)}; a turn is trained or it is not: write {key}: {form}."
            )
        said[key] = bool(value) == trains
    parts = next((key for key in _PARTS if message.get(key)), None)
    if parts is not None:
        raise PadfixError(
            f"message {index} has {parts}, which trains parts of a message, and a turn is trained whole; write "
            "train: true or false, and leave it out."
        )
    if len({*said.values()}) > 1:
        yes, no = (next(key for key in said if said[key] is trains) for trains in (True, False))
        raise PadfixError(
            f"message {index} has {yes}={describe(message[yes])}, which trains it, and {no}={describe(message[no])}, "
            "which does not; drop one of the two."
        )
    return all(said.values())
