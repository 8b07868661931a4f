"""Plain conversations to ids and labels in flat arrays: one text a row, one call of the engine, no list of ids.

A conversation of roles and texts is written out by a plan. Its control tokens part it, so that the ids of the whole
are the ids of the parts; their places in the ids show what is trained, and that no text spells one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_padfix.encoding.batch.flat_rows import Bulk, FlatRows, label_and_cut
from llama_padfix.encoding.batch.orders.alike import Likeness, are_plain
from llama_padfix.encoding.batch.orders.known_turns import KnownTurns, join_turns
from llama_padfix.encoding.batch.plan_arrays import PlanArrays, SegmentTable, Tabulator, write_chats
from llama_padfix.encoding.batch.render_plan import KnownOrders, RenderPlan, learn_render_plan
from llama_padfix.encoding.batch.separable import parts_at_controls
from llama_padfix.encoding.batch.shapes.shape import Shape
from llama_padfix.encoding.batch.shapes.shape_plan import learn_shape_plan

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate
    from llama_padfix.core.types import BoolArray, IdArray, LongArray, Messages
    from llama_padfix.encoding.batch.chat_columns import Chats
    from llama_padfix.encoding.batch.outlines import Reading
    from llama_padfix.encoding.settings import TrainOn

_MOST = 1000  # sequences of roles that are learned with probes, at some milliseconds each
_OFTEN, _ALONE, _PAYS = 3, 32, 20  # of fewer rows, only so many are, and one more for so many rows encoded here
_KEPT = 20_000  # sequences of roles that are remembered, at some kilobytes each

_Key = tuple["tuple[str, ...] | Reading", tuple[int, ...]]  # roles or shape, and the trained messages
_Found = dict["Reading", "_Key | None"]
_Waiting = tuple["Messages", tuple[str, ...], tuple[int, ...], int]  # with roles, trained messages and number of rows
Encode = Callable[[Sequence[str]], "tuple[IdArray, LongArray]"]


@dataclass
class BatchEncoder:
    """What is known of a template's plain conversations; grows with each new sequence of roles."""

    template: ChatTemplate
    encode: Encode
    """Returns the ids of texts, one after another, and the number of ids of each."""
    train_on: TrainOn
    """Which turns are trained; no callable."""
    forbidden: list[str] = field(default_factory=list)
    """Substrings that the template searches for, so that no plain conversation may hold one."""
    tables: dict[Reading, SegmentTable | None] = field(default_factory=dict)
    """By reading; None where conversations depend on more than their roles."""
    plans: dict[tuple[str, ...] | Reading, RenderPlan | None] = field(default_factory=dict)
    """By roles, which several readings may share, or by the shape of one."""
    tables_of_roles: dict[_Key, SegmentTable | None] = field(default_factory=dict)
    """By roles or shape, and trained messages."""
    known: KnownOrders = field(init=False)
    turns: KnownTurns = field(init=False)
    read: set[tuple[str, ...]] = field(default_factory=set)
    """The roles whose headers were read off what the template writes, and are not laid out yet."""
    likeness: Likeness = field(init=False)
    tabulator: Tabulator = field(init=False)
    rows: int = 0
    """Rows encoded so far."""
    compared: set[Hashable] = field(default_factory=set)
    """The kinds of readings of which an uncut row was compared with the row encoder's."""

    def __post_init__(self) -> None:
        self.known = KnownOrders(self.template)
        self.turns = KnownTurns(self.template)
        self.likeness = Likeness(self.template)
        self.tabulator = Tabulator(self.template, self.encode)

    def learn(self, chats: Chats) -> bool:
        """Learn the plans of all readings; return True if conversations are to be read anew.

        That is so where there are new substrings that none may hold, or objects that the template looks into.
        """
        before = len(self.forbidden) + len(self.known.opened)
        if len(self.tables) > _KEPT:
            self.tables, self.plans, self.tables_of_roles, self.tabulator.arrays = {}, {}, {}, PlanArrays()
            self.likeness.known.clear()
            self.turns.known.clear()
        found: dict[Reading, _Key | None] = {}
        waiting: dict[Reading, _Waiting] = {}
        for reading, count in Counter(chats.readings).most_common():
            if reading is None or reading in self.tables:
                continue
            chosen = reading.choose(self.train_on)
            if chosen is None:
                found[reading] = None
                continue
            messages, trained = chosen[0], tuple(chosen[1])
            if reading.by_shape:
                if len(self.known.opened) + len(self.forbidden) == before and self._is_worth(count):
                    shape = Shape(self.template, messages, reading.tools, trained, reading.written_arguments)
                    self.plans[reading] = learn_shape_plan(shape, self.known)
                    found[reading] = (reading, trained) if self.plans[reading] is not None else None
                continue
            roles = tuple(str(message["role"]) for message in messages)
            is_plain = are_plain(messages)
            if roles not in self.plans and is_plain and self.turns.expect(roles):
                waiting[reading] = messages, roles, trained, count
                continue
            is_known = roles in self.plans and (self.plans[roles] is None or is_plain)
            if is_known or self._is_worth(count):
                found[reading] = (roles, trained) if self._is_planned(messages, roles) else None
        self._tabulate(found)
        self._tabulate(self._compose(waiting))
        return len(self.forbidden) + len(self.known.opened) > before

    def _is_worth(self, count: int) -> bool:
        """Return True if a sequence of roles is learned for so many rows, as probes cost more than some rows do."""
        paid = self.known.probed < _ALONE + self.rows // _PAYS
        return paid or (count >= _OFTEN and self.known.probed < _MOST)

    def _is_planned(self, messages: Messages, roles: tuple[str, ...]) -> bool:
        """Return True if there is a plan for these roles, by which these messages are rendered too."""
        if roles not in self.plans:
            probed = self.known.probed
            self.plans[roles] = learn_render_plan(self.template, roles, self.known)
            if self.known.probed == probed and not self.known.differs:
                self.read.add(roles)
        plan = self.plans[roles]
        if plan is None or are_plain(messages):
            return plan is not None
        self.known.probed += 1
        return self.likeness.holds(messages, plan)

    def _compose(self, waiting: Mapping[Reading, _Waiting]) -> _Found:
        """Compose orders of known turns; return those that were learned instead."""
        found: _Found = {}
        self.turns.expected.clear()
        for reading, (messages, roles, trained, count) in waiting.items():
            turns = None if self.known.differs else self.turns.find(roles)
            is_worth = self._is_worth(count)
            if turns is not None and not (is_worth and self.turns.must_compare()):
                self.tables[reading] = join_turns(turns, trained, self.tabulator.arrays)
            elif is_worth:
                found[reading] = (roles, trained) if self._is_planned(messages, roles) else None
        return found

    def _tabulate(self, found: _Found) -> None:
        """Lay out the plans of some roles and trained messages, all of them with few calls of the engine."""
        keys = [*dict.fromkeys(found.values())]
        new = [(key, plan) for key in keys if key and key not in self.tables_of_roles and (plan := self.plans[key[0]])]
        tables = self.tabulator.tabulate([(plan, trained) for (_, trained), plan in new])
        for (key, plan), table in zip(new, tables, strict=True):
            self.tables_of_roles[key] = table
            if table is not None:
                self.forbidden += sorted(plan.forbidden_substrings - set(self.forbidden))
            if table is not None and key[0] in self.read:
                self.turns.record(key[0], plan, table, self.tabulator)
        self.read.clear()
        self.tables |= {reading: key and self.tables_of_roles[key] for reading, key in found.items()}

    def _find_notes(self, chats: Chats, rows: Sequence[int]) -> dict[int, Mapping[str, str]]:
        """Return the notes on rows that this encoder encoded, without those on rows that were cut; {} as a rule."""
        noted = {reading: table.notes for reading, table in self.tables.items() if table and table.notes}
        if not noted:
            return {}
        readings = chats.readings
        return {row: notes for row in rows if (reading := readings[row]) and (notes := noted.get(reading))}

    def _find_firsts(self, chats: Chats, flat: FlatRows) -> list[int]:
        """Return the first whole row of each kind that was not compared yet; one that is cut proves less."""
        firsts: dict[Hashable, int] = {}
        for row in flat.rows[flat.sizes == flat.lengths].tolist():
            reading = chats.readings[row]
            if reading is not None and reading.kind not in self.compared:
                firsts.setdefault(reading.kind, row)
        self.compared.update(firsts)
        return [*firsts.values()]

    def encode_chats(self, chats: Chats, max_length: int | None, truncation: str, *, allow_loss: bool = True) -> Bulk:
        """Encode the rows whose plan is known; rows that prove to be no plain ones are left out of the result.

        Such are rows with a blank text, rows in which a merge joins the header and the answer, with
        `truncation="error"` those that are too long, and unless `allow_loss` those that lose a message.
        """
        import numpy as np

        tables = [None if reading is None else self.tables.get(reading) for reading in chats.readings]
        if not allow_loss:
            tables = [None if table is None or table.is_lossy else table for table in tables]
        written, rows = write_chats(chats, tables)
        if not rows:
            return Bulk(FlatRows.empty())
        ids, sizes = self.encode(written)
        row_ends = np.cumsum(sizes, dtype=np.int64)
        row_starts = row_ends - sizes
        numbers = [table.number for row in rows if (table := tables[row])]
        first, last, proven = self._find_turns(ids, row_starts, numbers)
        edges = (row_starts, row_ends)
        flat = label_and_cut(rows, ids, edges, (first, last), proven, max_length, truncation)
        return Bulk(flat, self._find_notes(chats, flat.rows.tolist()), firsts=self._find_firsts(chats, flat))

    def _find_turns(
        self, ids: IdArray, row_starts: LongArray, numbers: Sequence[int]
    ) -> tuple[LongArray, LongArray, BoolArray]:
        """Return the first and last places of what is trained, and which rows are as their tables describe.

        The added tokens of such a row are those that the template writes, one by one, and each segment ends with one.
        The ids of a header are compared where it must stand: where they differ, a merge crosses its end.
        """
        import numpy as np

        arrays, tables = self.tabulator.arrays, np.asarray(numbers)
        places = self.tabulator.find_added(ids)
        before = np.searchsorted(places, row_starts)
        found = np.append(before[1:], len(places)) - before
        token_bounds = np.asarray(arrays.token_bounds)
        proven = found == np.diff(token_bounds)[tables]
        of_row = np.repeat(np.arange(len(tables)), found)
        nth = np.arange(len(places)) - before[of_row]
        expected = np.asarray(arrays.tokens)[np.minimum(token_bounds[tables][of_row] + nth, len(arrays.tokens) - 1)]
        proven[of_row[ids[places] != expected]] = False

        bounds = np.asarray(arrays.bounds)
        counts = np.diff(bounds)[tables]
        first_segments = np.cumsum(counts) - counts
        of_row = np.repeat(np.arange(len(tables)), counts)
        segments = np.arange(len(of_row)) + (bounds[tables] - first_segments)[of_row]
        headers, nth = np.asarray(arrays.headers)[segments], np.asarray(arrays.ends)[segments]
        ends = np.append(places, 0)[np.minimum(before[of_row] + nth - 1, len(places))] + 1
        starts = np.append(0, ends[:-1])
        starts[first_segments] = row_starts
        trained = np.flatnonzero((headers >= 0) & proven[of_row])
        headers, of_row, first, last = headers[trained], of_row[trained], starts[trained], ends[trained]
        for code, header in enumerate(self.tabulator.headers):
            chosen = np.flatnonzero(headers == code)
            window = np.minimum(first[chosen, None] + np.arange(len(header)), len(ids) - 1)
            merged = (ids[window] != header).any(axis=1) | (last[chosen] - first[chosen] <= len(header))
            proven[of_row[chosen[merged]]] = False
            first[chosen] += len(header)
        is_proven = proven[of_row]
        return first[is_proven], last[is_proven], proven


def make_batch_encoder(template: ChatTemplate, encode: Encode, train_on: TrainOn) -> BatchEncoder | None:
    """Return the batch encoder of a template; None if ids of parts differ, or a callable chooses the trained turns."""
    if callable(train_on) or not parts_at_controls(template.tokenizer) or not template.controls:
        return None
    return BatchEncoder(template, encode, train_on)
