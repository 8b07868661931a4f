"""Encoded rows as a picture needs them: what each token reads, whose turn it stands in, what the loss asks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_padfix.core.errors import IGNORE_INDEX, PadfixError
from llama_padfix.doctor.check_helpers import real_part
from llama_padfix.doctor.facts import Facts, RowFacts
from llama_padfix.doctor.findings import Report, Severity
from llama_padfix.view.pieces import Piece, join_characters
from llama_padfix.view.roles import Roles, find_roles

__all__ = ["MaskDocument", "MaskRow", "Problem", "make_row"]


@dataclass(frozen=True)
class Problem:
    """One place of a row where a check sees its fault: positions `start` to `end`, `count` times in the row.

    `code` is empty for a row that could not be encoded; `remark` then says why.
    """

    code: str
    severity: Severity
    start: int
    end: int
    count: int = 1
    remark: str = ""


@dataclass(frozen=True, eq=False)
class MaskRow:
    """One row: numpy arrays of one length, `input_ids` and `labels` int64, `padding` bool.

    `labels` is None where the row has none. `turns` are (position, role) where a turn begins, in order, the first
    at 0; a role is "" where none is known. `characters` are those that several tokens make up: position of the
    first to (number of tokens, text). A row that could not be encoded has no tokens and a problem that says why.
    """

    number: int
    input_ids: Any
    labels: Any
    padding: Any
    turns: tuple[tuple[int, str], ...] = ()
    characters: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    note: str = ""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained(self) -> Any:
        """Which tokens the loss asks for, as booleans: those with a label."""
        return self.padding & False if self.labels is None else self.labels != IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class MaskDocument:
    """Rows that were looked at, what each of their ids reads, and what the checks of rows say of them.

    `total` is how many rows there are, None for a stream; `source` is "dataset", "batch" or "batches".
    """

    rows: tuple[MaskRow, ...]
    pieces: Mapping[int, Piece] = field(repr=False)
    report: Report = field(repr=False)
    source: str = "dataset"
    total: int | None = None
    title: str = "What is trained"


def make_row(
    row: RowFacts,
    facts: Facts,
    roles: Roles,
    pieces: Mapping[int, Piece],
    problems: Sequence[Problem] = (),
    note: str = "",
) -> MaskRow:
    """Return an encoded row with its turns, its padding as a turn of its own, and what checks say of it."""
    length = len(row.input_ids)
    if row.labels is not None and len(row.labels) != length:
        raise PadfixError(f"row {row.number} has {len(row.labels)} labels beside {length} input_ids.")
    padding = ~real_part(row)
    starts = dict(find_roles(row.input_ids, facts, roles, pieces))
    turns: list[tuple[int, str]] = []
    role, padded = "", False
    edges = {0, *starts, *((padding[1:] != padding[:-1]).nonzero()[0] + 1).tolist()} if length else set()
    for at in sorted(edges):
        role, padded = starts.get(at, role), bool(padding[at])
        if not padded or not turns or turns[-1][1] != "padding":
            turns.append((at, "padding" if padded else role))
    ids = row.input_ids.tolist()
    characters = join_characters(ids, pieces)
    return MaskRow(row.number, row.input_ids, row.labels, padding, tuple(turns), characters, tuple(problems), note)
