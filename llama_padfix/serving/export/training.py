"""What was trained, as the export needs it: the rows, and the conversations on which a template is proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama_padfix.encoding.encoder import ChatEncoder
from llama_padfix.serving.own_chats import OWN_CHATS
from llama_padfix.serving.trained import TrainedRows, read_trained, take_rows

if TYPE_CHECKING:
    from llama_padfix.core.types import Rows
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.rendering.chat import Chat


@dataclass(frozen=True)
class Training:
    """The rows of a training."""

    encoder: ChatEncoder
    """What encoded them."""

    rows: Sequence[object]
    """The rows; empty for the library's own chats."""

    trained: TrainedRows
    """Their points and ends, those of the library's own chats where there are none."""

    chats: Sequence[Chat]
    """Their conversations, whole and up to each point."""

    more: Sequence[Chat] = ()
    """The library's own conversations with the arguments of most of them."""


def read_training(folder: ServedFolder, dataset: Rows | None, limit: int, encoder: ChatEncoder | None) -> Training:
    """Return what was trained.

    Args:
        folder: The folder that the run saved.
        dataset: The rows; None for the library's own chats.
        limit: The most rows that are read.
        encoder: The encoder of the training; by default `ChatEncoder(tokenizer)`.
    """
    encoder = encoder if encoder is not None else ChatEncoder(folder.tokenizer)
    rows = [*take_rows(dataset, limit)] if dataset is not None else []
    own = read_trained(folder, OWN_CHATS.values(), len(OWN_CHATS), encoder)
    if not rows:
        return Training(encoder, rows, own, _list_chats(own))
    trained = read_trained(folder, rows, len(rows), encoder)
    chats = _list_chats(trained)
    if chats:
        counts = Counter(repr(chat.kwargs) for chat in trained.chats)
        most = next(chat.kwargs for chat in chats if repr(chat.kwargs) == counts.most_common(1)[0][0])
        return Training(encoder, rows, trained, chats, [replace(chat, kwargs=most) for chat in _list_chats(own)])
    return Training(encoder, rows, trained, chats)


def _list_chats(trained: TrainedRows) -> list[Chat]:
    return [*trained.chats, *(point.chat for point in trained.points)]
