"""Rows of preferences (DPO, ORPO, reward models, KTO), read as the rows of a prompt and an answer that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.pairs.ranking import find_ranked
from llama_padfix.encoding.pairs.shapes import PAIR, VERDICTS, read_answers
from llama_padfix.encoding.reading.json_values import as_list
from llama_padfix.encoding.row_formats import CONVERSATION_COLUMNS, Conversation, read_row

if TYPE_CHECKING:
    from typing import TypeGuard

    from llama_padfix.core.types import Row


_PLAIN = ("completion", "output", "text", *CONVERSATION_COLUMNS)  # rows with one of these hold one answer, or none


def read_conversations(row: object, row_number: int) -> tuple[str, list[Conversation], object]:
    """Read a row of any shape.

    Returns:
        The shape, the conversations of the row (two of a pair, or of scored answers the best and the worst), and the
        row that is encoded for it: of a pair the one with the longer answer, so that it counts once.

    Raises:
        PadfixError: the row cannot be read.
    """
    if holds_answers(row):
        try:
            rows = read_answers(row).rows
        except PadfixError as error:
            raise PadfixError(f"row {row_number}: {error}") from None
        read = [_read_answer(name, answer, row_number) for name, answer in zip(PAIR, rows, strict=True)]
        return "preference", read, max(rows, key=lambda answer: len(str(answer)))
    if isinstance(row, Mapping) and any(row.get(name) in (0, 1) for name in VERDICTS):
        row = {name: value for name, value in row.items() if name not in VERDICTS}
        return "preference", [read_row(row, row_number=row_number)], row
    conversation = read_row(row, row_number=row_number)
    return conversation.shape, [conversation], row


def holds_answers(row: object) -> TypeGuard[Row]:
    """Return True for a row with the answers of a pair, one of which may be null, or with several scored answers."""
    if not isinstance(row, Mapping):
        return False
    held = [row[name] for name in PAIR if row.get(name) is not None]
    if not held or not all(name in row for name in PAIR):
        return find_ranked(row) is not None and all(row.get(name) is None for name in _PLAIN)
    return all(isinstance(answer, (str, Mapping)) or as_list(answer) is not None for answer in held)


def _read_answer(name: str, row: Row, row_number: int) -> Conversation:
    try:
        return read_row(row)
    except PadfixError as error:
        raise PadfixError(f"row {row_number}: of the {name} answer: {error}") from None
