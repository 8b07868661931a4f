"""How turns were written in some orders of roles, and other orders of which each turn is written as one of these.

What a template writes of a turn, and whether that is a proven part of a row, depends on its surroundings alone, where
`read_reach` proves it: its role, those of its neighbors, and whether it is one of the first ones or the last one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from llama_padfix.chat.symbolic_slots import Operations
from llama_padfix.chat.traced_render import source_of
from llama_padfix.encoding.batch.orders.reach import Reach, read_reach
from llama_padfix.encoding.batch.plan_arrays import PlanArrays, SegmentTable, Tabulator
from llama_padfix.encoding.batch.render_plan import RenderPlan

if TYPE_CHECKING:
    from typing import TypeAlias

    from llama_padfix.chat.render import ChatTemplate

    Surroundings: TypeAlias = tuple[object, ...]
    """All that the text of a turn depends on beside its message's text."""


class Turn(NamedTuple):
    """How a turn is written: the literal in front of its text and, of the last one, that behind it.

    `header` is as in `PlanArrays`; `tokens` and `tokens_behind` are the added tokens up to its end and behind that.
    """

    before: str
    operations: Operations
    header: int
    tokens: tuple[int, ...]
    behind: str
    tokens_behind: tuple[int, ...]


@dataclass
class KnownTurns:
    """The turns of orders whose headers were read off what the template writes (see `learn_render_plan`)."""

    template: ChatTemplate
    known: dict[Surroundings, Turn] = field(default_factory=dict)
    expected: set[Surroundings] = field(default_factory=set)
    """Surroundings in orders that are about to be learned."""
    found: int = 0
    """How many orders of known turns there were."""
    contradicted: bool = False
    """Whether a turn was written in two ways: orders that were composed before may be wrong."""

    @cached_property
    def reach(self) -> Reach | None:
        """How far the template looks; None where orders cannot be composed."""
        return read_reach(source_of(self.template.tokenizer, None, dict(self.template.kwargs)))

    def expect(self, roles: Sequence[str]) -> bool:
        """Return True if an order can be composed as soon as the expected ones are learned; else expect this one."""
        if self.reach is None or self.contradicted:
            return False
        surroundings = _find_surroundings(self.reach, roles)
        if all(one in self.known or one in self.expected for one in surroundings):
            return True
        self.expected.update(surroundings)
        return False

    def find(self, roles: Sequence[str]) -> list[Turn] | None:
        """Return the turns of an order; None where one is not known."""
        if self.reach is None or self.contradicted:
            return None
        turns = [*map(self.known.get, _find_surroundings(self.reach, roles))]
        return None if None in turns else turns  # type: ignore[return-value]  # none is None

    def must_compare(self) -> bool:
        """Return True if the next order of known turns is learned too: the first ones, then ever fewer."""
        self.found += 1
        return self.found.bit_count() == 1

    def record(self, roles: Sequence[str], plan: RenderPlan, table: SegmentTable, tabulator: Tabulator) -> None:
        """Add the turns of an order whose headers were read off what the template writes."""
        if self.reach is None or not all(segment.closed for segment in plan.segments):
            return
        headers, arrays = tabulator.place_headers(plan), tabulator.arrays
        number, last = table.number, len(roles) - 1
        ends = arrays.ends[arrays.bounds[number] : arrays.bounds[number + 1]]
        tokens = arrays.tokens[arrays.token_bounds[number] : arrays.token_bounds[number + 1]]
        start = 0
        for place, one in enumerate(_find_surroundings(self.reach, roles)):
            end = ends[place]
            behind = (table.parts[-1], tuple(tokens[end:])) if place == last else ("", ())
            turn = Turn(
                table.parts[2 * place], table.operations[place], headers[place], tuple(tokens[start:end]), *behind
            )
            self.contradicted |= self.known.setdefault(one, turn) != turn
            start = end


def join_turns(turns: Sequence[Turn], trained: Collection[int], arrays: PlanArrays) -> SegmentTable:
    """Return the table of an order of known turns, of which some are trained; it is added to the arrays."""
    headers, ends, tokens, parts = [-1] * len(turns), list[int](), list[int](), list[str]()
    for turn in turns:
        parts += (turn.before, "")
        tokens += turn.tokens
        ends.append(len(tokens))
    for place in trained:
        headers[place] = turns[place].header
    parts.append(turns[-1].behind)
    return SegmentTable(
        number=arrays.add(headers, ends, [*tokens, *turns[-1].tokens_behind]),
        parts=tuple(parts),
        places=tuple(range(len(turns))),
        operations=tuple([turn.operations for turn in turns]),
        in_order=True,
        notes={},
    )


def _find_surroundings(reach: Reach, roles: Sequence[str]) -> list[Surroundings]:
    """Return the surroundings of each turn of an order."""
    count, far = len(roles), reach.places + 1  # a neighbor that stands before a message may be written otherwise
    first = tuple(roles[: reach.firsts])
    around = zip((None, *roles), roles, (*roles[1:], None), strict=False)
    return [(first, min(place, far), *three, place == count - 2) for place, three in enumerate(around)]
