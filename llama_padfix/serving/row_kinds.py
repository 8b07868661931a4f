"""What a row is to a server: a conversation, a preference of which the chosen answer counts, or a prompt alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.pairs.shapes import read_answers
from llama_padfix.encoding.row_formats import Conversation, read_row
from llama_padfix.encoding.sources import refuse_encoded

RowKind = Literal["conversation", "preference", "prompt"]

KINDS: Mapping[RowKind, str] = MappingProxyType(
    {
        "conversation": "conversations: compared before each trained answer",
        "preference": "preferences: compared before the chosen or judged answer",
        "prompt": "prompts without an answer: compared behind the prompt",
    }
)
"""What is compared of each kind of row."""


def require_rows(rows: object) -> None:
    """Raise `PadfixError` unless this can be read row by row, and is not encoded."""
    if isinstance(rows, (Mapping, str, bytes)) or not isinstance(rows, Iterable):
        raise PadfixError(
            f"Got a {type(rows).__name__} where rows are needed. Pass a list of rows or one split of a dataset: "
            'check_serving(folder, dataset["train"])'
        )
    refuse_encoded(rows, "dataset")


def read_served_row(row: object) -> tuple[Conversation, RowKind]:
    """Return the conversation of a row, and the kind of the row; that of a prompt ends with no answer.

    Raises:
        PadfixError: The row is of no shape that is known.
    """
    try:
        found = read_row(row)
    except PadfixError:
        if not isinstance(row, Mapping):
            raise
        other = _read_preference(row) or _read_prompt(row)
        if other is None:
            raise
        return other
    answered = found.messages is None or any(message.get("role") == "assistant" for message in found.messages)
    return found, "conversation" if answered else "prompt"


def _read_preference(row: Mapping[str, object]) -> tuple[Conversation, RowKind] | None:
    try:
        answers = read_answers(row, judged=True)
    except PadfixError:
        return None
    return read_row(answers.rows[0]), "preference"


def _read_prompt(row: Mapping[str, object]) -> tuple[Conversation, RowKind] | None:
    prompt = row.get("prompt")
    if not prompt or row.get("completion") is not None:
        return None
    answer = "-" if isinstance(prompt, str) else [{"role": "assistant", "content": "-"}]
    found = read_row({**row, "completion": answer})
    return replace(found, messages=(found.messages or [])[:-1]), "prompt"
