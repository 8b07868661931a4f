"""Rows of preferences (DPO, ORPO, reward models, KTO), read as the rows of a prompt and an answer that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.reading.json_values import as_list
from llama_padfix.encoding.row_formats import CONVERSATION_COLUMNS, Conversation, read_row

if TYPE_CHECKING:
    from typing import TypeGuard

    from llama_padfix.core.types import Row

_PAIR = ("chosen", "rejected")
_OTHERS = ("prompt", "completion", "output", "text", *CONVERSATION_COLUMNS)  # which trainers of pairs do not read
_VERDICTS = ("label", "kto_tag")  # KTO: whether the answer is a good one


def read_conversations(row: object, row_number: int) -> tuple[str, list[Conversation], object]:
    """Read a row of any shape.

    Returns:
        The shape, the conversations of the row (two of a pair), and the row that is encoded for it: of a pair the one
        with the longer answer, so that it counts once.

    Raises:
        PadfixError: the row cannot be read.
    """
    if _holds_pair(row):
        parts = _split_pair(row)
        read = [_read_answer(name, row[name], part, row_number) for name, part in parts.items()]
        return "preference", read, max(parts.values(), key=lambda part: len(str(part)))
    if isinstance(row, Mapping) and any(row.get(name) in (0, 1) for name in _VERDICTS):
        row = {name: value for name, value in row.items() if name not in _VERDICTS}
        return "preference", [read_row(row, row_number=row_number)], row
    conversation = read_row(row, row_number=row_number)
    return conversation.shape, [conversation], row


def _holds_pair(row: object) -> TypeGuard[Row]:
    """Return True for a row with the answers of a pair, one of which may be null."""
    if not isinstance(row, Mapping) or not all(name in row for name in _PAIR):
        return False
    answers = [row[name] for name in _PAIR if row[name] is not None]
    return bool(answers) and all(isinstance(answer, str) or as_list(answer) is not None for answer in answers)


def _split_pair(row: Row) -> dict[str, Row]:
    """Return a pair's rows by the columns of their answers: a prompt with a completion, a text, or messages."""
    rest = {name: value for name, value in row.items() if name not in (*_PAIR, *_OTHERS)}
    if row.get("prompt") is not None:
        return {name: {**rest, "prompt": row["prompt"], "completion": row[name]} for name in _PAIR}
    return {name: {**rest, "text" if isinstance(row[name], str) else "messages": row[name]} for name in _PAIR}


def _read_answer(name: str, answer: object, row: Row, row_number: int) -> Conversation:
    if answer is None:
        raise PadfixError(f"row {row_number}: {name} is null, so there is no pair to compare; drop the row.")
    try:
        return read_row(row)
    except PadfixError as error:
        raise PadfixError(f"row {row_number}: of the {name} answer: {error}") from None
