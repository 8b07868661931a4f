"""Plain conversations to ids and labels in flat arrays: one text a row, one call of the engine, no list of ids.

A conversation of roles and texts is written out by a plan. Its control tokens part it, so that the ids of the whole
are the ids of the parts; their places in the ids show what is trained, and that no text spells one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.encoding.batch.chat_columns import Chats, Signature, read_roles
from llama_padfix.encoding.batch.plan_arrays import PlanArrays, SegmentTable, Tabulator, write_chats
from llama_padfix.encoding.batch.render_plan import KnownOrders, learn_render_plan
from llama_padfix.encoding.batch.separable import parts_at_controls
from llama_padfix.encoding.encoded_rows import EncodedRow, find_ends, mark_spans, write_labels
from llama_padfix.tokens.control import special_ids

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate
    from llama_padfix.core.types import BoolArray, IdArray, LongArray

_MOST = 1000  # sequences of roles that are learned with probes, at some milliseconds each
_OFTEN, _ALONE, _PAYS = 3, 32, 20  # of fewer rows, only so many are, and one more for so many rows encoded here
_KEPT = 20_000  # sequences of roles that are remembered, at some kilobytes each

Encode = Callable[[Sequence[str]], "tuple[IdArray, LongArray]"]


@dataclass(frozen=True)
class FlatRows:
    """Encoded rows one behind the other, as arrays."""

    rows: LongArray
    """The number of each row among those that were to be encoded."""
    bounds: LongArray
    """Row `rows[n]` is at `bounds[n] : bounds[n + 1]`; one without tokens was dropped, since no trained turn fits."""
    input_ids: IdArray
    labels: IdArray
    lengths: LongArray
    """The number of tokens of each row before it was cut."""
    trained: int
    """The number of trained tokens of all rows."""

    @classmethod
    def empty(cls) -> FlatRows:
        """Return no rows."""
        import numpy as np

        none, no_ids = np.zeros(0, np.int64), np.zeros(0, np.int32)
        return cls(none, np.zeros(1, np.int64), no_ids, no_ids, none, trained=0)

    @property
    def sizes(self) -> LongArray:
        """The number of tokens of each row."""
        sizes: LongArray = self.bounds[1:] - self.bounds[:-1]
        return sizes

    def keep(self, chosen: BoolArray) -> FlatRows:
        """Return the chosen rows; no row that is left out may hold a token."""
        import numpy as np

        bounds = np.concatenate([[0], self.bounds[1:][chosen]])
        return replace(self, rows=self.rows[chosen], bounds=bounds, lengths=self.lengths[chosen])

    def insert(self, others: Mapping[int, EncodedRow]) -> FlatRows:
        """Return these rows and `others`, which are named by their numbers, in the order of their numbers.

        A row in pieces is a row for each, with the same number. `trained` does not count the others.
        """
        import numpy as np

        if not others:
            return self
        order = sorted(others)
        places = np.searchsorted(self.rows, order)
        cuts = self.bounds[places]
        added = [others[number] for number in order]
        pieces = [row.pieces or (len(row.input_ids),) for row in added]
        added_sizes = [size for row_sizes in pieces for size in row_sizes]
        counts = [*map(len, pieces)]
        places = np.repeat(places, counts)
        sizes = np.insert(self.sizes, places, added_sizes)
        return FlatRows(
            rows=np.insert(self.rows, places, np.repeat(order, counts)),
            bounds=np.concatenate([[0], np.cumsum(sizes)]),
            input_ids=_weave(self.input_ids, cuts, [np.asarray(row.input_ids, np.int32) for row in added]),
            labels=_weave(self.labels, cuts, [np.asarray(row.labels, np.int32) for row in added]),
            lengths=np.insert(self.lengths, places, added_sizes),
            trained=self.trained,
        )


def _weave(values: IdArray, cuts: LongArray, rows: Sequence[IdArray]) -> IdArray:
    """Return the values with a row inserted at each of the cuts."""
    import numpy as np

    parts = []
    for start, end, row in zip([0, *cuts], cuts, rows, strict=False):
        parts += [values[start:end], row]
    return np.concatenate([*parts, values[cuts[-1] :]])


@dataclass
class BatchEncoder:
    """What is known of a template's plain conversations; grows with each new sequence of roles."""

    template: ChatTemplate
    encode: Encode
    """Returns the ids of texts, one after another, and the number of ids of each."""
    last_only: bool
    """Whether the last turn alone is trained."""
    forbidden: list[str] = field(default_factory=list)
    """Substrings that the template searches for, so that no plain conversation may hold one."""
    tables: dict[Signature, SegmentTable | None] = field(default_factory=dict)
    """By signature; None where conversations depend on more than their roles."""
    tables_of_roles: dict[tuple[str, ...], SegmentTable | None] = field(default_factory=dict)
    """By roles, which several signatures may spell."""
    known: KnownOrders = field(init=False)
    tabulator: Tabulator = field(init=False)
    rows: int = 0
    """Rows encoded so far."""
    compared: bool = False
    """True once an uncut row was compared with the row encoder's."""

    def __post_init__(self) -> None:
        self.known = KnownOrders(self.template)
        self.tabulator = Tabulator(self.template, self.encode, self.last_only)

    def learn(self, chats: Chats) -> bool:
        """Learn the plans of all signatures; return True if there are new substrings that no conversation may hold."""
        known = len(self.forbidden)
        if len(self.tables) > _KEPT:
            self.tables, self.tables_of_roles, self.tabulator.arrays = {}, {}, PlanArrays()
        for signature, count in Counter(chats.signatures).most_common():
            if signature is not None and signature not in self.tables and self._is_worth(count):
                self.tables[signature] = self._make_table(signature)
        return len(self.forbidden) > known

    def _is_worth(self, count: int) -> bool:
        """Return True if a sequence of roles is learned for so many rows, as probes cost more than some rows do."""
        paid = self.known.probed < _ALONE + self.rows // _PAYS
        return paid or (count >= _OFTEN and self.known.probed < _MOST)

    def _make_table(self, signature: Signature) -> SegmentTable | None:
        roles = read_roles(signature)
        if roles is None or "assistant" not in roles:
            return None
        if roles not in self.tables_of_roles:
            plan = learn_render_plan(self.template, roles, self.known)
            table = None if plan is None else self.tabulator.tabulate(plan)
            if plan is not None and table is not None:
                self.forbidden += sorted(plan.forbidden_substrings - set(self.forbidden))
            self.tables_of_roles[roles] = table
        return self.tables_of_roles[roles]

    def find_notes(self, chats: Chats, rows: Sequence[int]) -> dict[int, Mapping[str, str]]:
        """Return the notes on rows that this encoder encoded, without those on rows that were cut; {} as a rule."""
        noted = {signature: table.notes for signature, table in self.tables.items() if table and table.notes}
        if not noted:
            return {}
        signatures = chats.signatures
        return {row: notes for row in rows if (notes := noted.get(signatures[row] or ()))}

    def encode_chats(
        self, chats: Chats, max_length: int | None, truncation: str, *, allow_loss: bool = True
    ) -> FlatRows:
        """Encode the rows whose plan is known; rows that prove to be no plain ones are left out of the result.

        Such are rows with a blank text, rows in which a merge joins the header and the answer, with
        `truncation="error"` those that are too long, and unless `allow_loss` those that lose a message.
        """
        import numpy as np

        tables = [None if signature is None else self.tables.get(signature) for signature in chats.signatures]
        if not allow_loss:
            tables = [None if table is None or table.is_lossy else table for table in tables]
        written, rows = write_chats(chats, tables)
        if not rows:
            return FlatRows.empty()
        ids, sizes = self.encode(written)
        row_ends = np.cumsum(sizes, dtype=np.int64)
        row_starts = row_ends - sizes
        numbers = [table.number for row in rows if (table := tables[row])]
        first, last, proven = self._find_turns(ids, row_starts, numbers)
        kept_ends, whole = find_ends(row_starts, row_ends, first, last, max_length, truncation)
        left_out = ~proven if truncation != "error" else ~(proven & whole)
        labels = write_labels(ids, first, last, np.empty_like(ids))
        trained = int((last - first).sum())
        if not whole.all() or left_out.any():
            kept_ends[left_out] = row_starts[left_out]
            kept = mark_spans(row_starts, kept_ends, len(ids))
            ids, labels = ids[kept], labels[kept]
            trained = int(np.count_nonzero(labels != IGNORE_INDEX))
        bounds = np.concatenate([[0], np.cumsum((kept_ends - row_starts)[~left_out])])
        return FlatRows(np.asarray(rows)[~left_out], bounds, ids, labels, sizes[~left_out], trained)

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


def make_batch_encoder(template: ChatTemplate, encode: Encode, train_on: object) -> BatchEncoder | None:
    """Return the batch encoder of a template; None if ids of parts differ, or a callable chooses the trained turns."""
    if callable(train_on) or not parts_at_controls(template.tokenizer) or not special_ids(template.tokenizer):
        return None
    return BatchEncoder(template, encode, train_on == "last")
