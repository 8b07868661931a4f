"""Encoded rows as a picture needs them: the text of each token, the role of its turn, and whether it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.core.records import short_repr
from llama_padfix.doctor.check_helpers import mark_padding, real_part
from llama_padfix.doctor.findings import Report
from llama_padfix.view.pieces import Piece, join_characters, read_pieces
from llama_padfix.view.problems import CheckedRows, Problem
from llama_padfix.view.read_rows import ReadRow
from llama_padfix.view.roles import Roles, find_roles, learn_roles

if TYPE_CHECKING:
    from llama_padfix.core.types import BoolArray, LongArray, TokenizerLike


@dataclass(frozen=True, eq=False)
class MaskRow:
    """One row; its arrays have one length, which is 0 for a row that could not be encoded."""

    number: int
    """The row's place in what was passed, from 0."""
    input_ids: LongArray
    labels: LongArray | None
    """None where the row has none."""
    padding: BoolArray
    """Which positions are padding."""
    turns: tuple[tuple[int, str], ...] = ()
    """Position and role of where turns start, in order, the first at 0; a role is "" where none is known."""
    characters: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    """Characters of several tokens: position of the first to number of tokens and text."""
    problems: tuple[Problem, ...] = ()
    note: str = ""
    """How the row was read, where that needs a word."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained(self) -> BoolArray:
        """Which tokens count in the loss: those with a label."""
        return self.padding & False if self.labels is None else self.labels != IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class MaskDocument:
    """Rows, the text of their ids, and the findings of the checks of rows."""

    rows: tuple[MaskRow, ...]
    pieces: Mapping[int, Piece] = field(repr=False)
    """The text of each id that occurs."""
    report: Report = field(repr=False)
    source: str = "dataset"
    """"dataset", "batch" or "batches"."""
    total: int | None = None
    """The number of all rows; None for a stream."""
    title: str = "What is trained"

    __repr__ = short_repr


def make_rows(
    read: Sequence[ReadRow], checked: CheckedRows, tokenizer: TokenizerLike
) -> tuple[tuple[MaskRow, ...], dict[int, Piece]]:
    """Return the rows with their turns and problems, and the text of each of their ids."""
    ids = {token_id for item in read if item.facts is not None for token_id in item.facts.input_ids.tolist()}
    pieces = read_pieces(tokenizer, checked.facts, ids)
    roles = learn_roles(tokenizer, checked.facts)
    return tuple(_make_row(item, checked, roles, pieces) for item in read), pieces


def _make_row(item: ReadRow, checked: CheckedRows, roles: Roles, pieces: Mapping[int, Piece]) -> MaskRow:
    """Return a row with its turns; padding is a turn of its own."""
    import numpy as np

    row, problems = item.facts, checked.problems[item.number]
    if row is None:
        nothing = np.zeros(0, dtype=np.int64)
        return MaskRow(item.number, nothing, None, nothing != 0, problems=problems, note=item.note)
    length = len(row.input_ids)
    if row.labels is not None and len(row.labels) != length:
        raise PadfixError(f"row {row.number} has {len(row.labels)} labels beside {length} input_ids.")
    padding = ~real_part(mark_padding(row, checked.facts))
    starts = dict(find_roles(row.input_ids, checked.facts, roles, pieces))
    turns: list[tuple[int, str]] = []
    role = ""
    edges = {0, *starts, *((padding[1:] != padding[:-1]).nonzero()[0] + 1).tolist()} if length else set()
    for at in sorted(edges):
        role = starts.get(at, role)
        if not padding[at] or not turns or turns[-1][1] != "padding":
            turns.append((at, "padding" if padding[at] else role))
    characters = join_characters(row.input_ids.tolist(), pieces)
    return MaskRow(row.number, row.input_ids, row.labels, padding, tuple(turns), characters, problems, item.note)
