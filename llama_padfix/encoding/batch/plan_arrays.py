"""Render plans as arrays, so that many conversations are written out, and checked, in a few vectorized steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from llama_padfix.chat.symbolic_slots import Operations, trim
from llama_padfix.encoding.batch.chat_columns import Chats
from llama_padfix.encoding.batch.render_plan import RenderPlan, Segment
from llama_padfix.encoding.batch.shapes.left_out import is_left_out
from llama_padfix.encoding.chat_rows import describe_empty
from llama_padfix.tokens.control import special_ids
from llama_padfix.tokens.token_bytes import TokenBytes

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate
    from llama_padfix.core.types import BoolArray, IdArray, LongArray

_WORD = "Word"  # stands for a message's text
_CHECKED = 8  # tables whose tokens are compared with those of a whole conversation


@dataclass(frozen=True)
class SegmentTable:
    """How conversations of one sequence of roles, or of one shape, are written: literals and texts in turn.

    `parts` holds the literals at its even places. The texts are those at `places` of a row, in this order, each
    trimmed by its `operations`. With `in_order`, texts without white space at their ends are written as they come.
    `number` is the table's place in `PlanArrays`, `notes` are those on each of its rows (see `EncodedRow`).
    """

    number: int
    parts: tuple[str, ...]
    places: tuple[int, ...]
    operations: tuple[Operations, ...]
    in_order: bool
    notes: Mapping[str, str]
    is_lossy: bool = False
    """Whether the template leaves a message or a thought out."""
    left_out: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """See `RenderPlan`."""


@dataclass
class PlanArrays:
    """The segments of all tables, one after another; those of table `n` are at `bounds[n] : bounds[n + 1]`.

    `headers` are the places of each segment's header in a list of headers, or -1 where nothing is trained. `tokens`
    are the added tokens that the template writes, table by table (`token_bounds`), and `ends` the number of them from
    the row's beginning to each segment's end.
    """

    headers: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    bounds: list[int] = field(default_factory=lambda: [0])
    tokens: list[int] = field(default_factory=list)
    token_bounds: list[int] = field(default_factory=lambda: [0])

    def add(self, headers: Sequence[int], ends: Sequence[int], tokens: Sequence[int]) -> int:
        """Add a table and return its number."""
        self.headers += headers
        self.ends += ends
        self.bounds.append(len(self.ends))
        self.tokens += tokens
        self.token_bounds.append(len(self.tokens))
        return len(self.bounds) - 2


class _Layout(NamedTuple):
    """What a plan writes: in turn with texts; cut behind each control token, with a word for each text; its headers,
    each followed by the whole text before the turn.
    """

    written: tuple[str, ...]
    parts: list[str]
    headers: list[str]


@dataclass
class Tabulator:
    """Lays render plans out as tables, and keeps what it encodes for that."""

    template: ChatTemplate
    encode: Callable[[Sequence[str]], tuple[IdArray, LongArray]]
    arrays: PlanArrays = field(default_factory=PlanArrays)
    headers: list[IdArray] = field(default_factory=list)
    """The ids of each header that opens a trained turn; a token that reaches over its end is a part of it."""
    gap: tuple[int, int] = field(init=False)
    """Two ids between which no id is a control token or tag: most ids of texts are there."""
    is_added: BoolArray = field(init=False)
    """By id, whether it is a control token or tag; the last one stands for all higher ids. A token that a text spells
    shows here. Other added tokens (Gemma's runs of line breaks) are text."""
    _places: dict[tuple[str, int], int] = field(default_factory=dict)
    """What stands before a text, and the length of its header, to the place of that in `headers`."""
    _ids: dict[str, IdArray] = field(default_factory=dict)
    """The ids of what templates write, by its text."""
    _tokens: dict[str, tuple[list[int], bool]] = field(default_factory=dict)
    """What `_read_tokens` returns, by text."""

    def __post_init__(self) -> None:
        import numpy as np

        tokenizer = self.template.tokenizer
        tags = {tag: tokenizer.convert_tokens_to_ids(tag) for tag in self.template.tags}
        ids = [-1, *sorted({**tags, **special_ids(tokenizer)}.values())]
        self.gap = max(pairwise(ids), key=lambda pair: pair[1] - pair[0])
        self.is_added = np.zeros(ids[-1] + 2, bool)
        self.is_added[ids[1:]] = True

    def find_added(self, ids: IdArray) -> LongArray:
        """Return the places of all control tokens and tags."""
        import numpy as np

        places = np.flatnonzero((ids <= self.gap[0]) | (ids >= self.gap[1]))
        return places[self.is_added[np.minimum(ids[places], len(self.is_added) - 1)]]

    def tabulate(self, plans: Sequence[tuple[RenderPlan, Collection[int]]]) -> list[SegmentTable | None]:
        """Lay plans out, each for some trained messages; None where what it writes does not part its segments.

        All that they write is encoded in one call of the engine.
        """
        layouts = [_lay_out(plan) for plan, _ in plans]
        wholes = max(_CHECKED + 1 - len(self.arrays.bounds), 0)
        texts = [text for layout in layouts for text in (*layout.parts, *layout.headers)]
        self._encode_new([*texts, *("".join(layout.parts) for layout in layouts[:wholes])])
        return [self._make_table(*plan, layout) for plan, layout in zip(plans, layouts, strict=True)]

    def _make_table(self, plan: RenderPlan, trained: Collection[int], layout: _Layout) -> SegmentTable | None:
        filled = [segment for segment in plan.segments if segment.place is not None]
        headers = self.place_headers(plan)
        tokens = self._find_tokens(filled, layout.parts)
        if tokens is None or (headers[0] >= 0 and not len(self.headers[headers[0]])):
            return None  # position 0 is never trained: something must stand in front of an answer
        headers = [
            header if segment.message in trained else -1
            for segment, header in zip(plan.segments, headers, strict=True)
        ]
        empty = [message for message in plan.empty_thoughts if message in trained]
        notes = {"empty_reasoning": describe_empty(empty[0], self.template.quiet_kwargs)} if empty else {}
        places = tuple(segment.place for segment in filled if segment.place is not None)
        operations = tuple(segment.operations for segment in filled)
        trims = all(chars is None or str(chars).isspace() for made in operations for _, chars in made)
        return SegmentTable(
            number=self.arrays.add(*_join_turns(filled, headers, tokens[0]), tokens[1]),
            parts=layout.written,
            places=places,
            operations=operations,
            in_order=places == tuple(range(len(places))) and trims,
            notes={**notes, **plan.losses, **plan.notes},
            is_lossy=bool(plan.losses),
            left_out=plan.left_out,
        )

    def _find_tokens(self, filled: Sequence[Segment], parts: Sequence[str]) -> tuple[list[int], list[int]] | None:
        """Return the number of control tokens and tags up to the end of each segment, and these tokens; None if the
        ids of a segment do not end with one.
        """
        tokens: list[int] = []
        counts = [0]
        for place, part in enumerate(parts):
            found, is_closed = self._read_tokens(part)
            if place < len(parts) - 1 and not is_closed:
                return None
            tokens += found
            counts.append(len(tokens))
        if len(self.arrays.bounds) <= _CHECKED:
            self._encode_new([whole := "".join(parts)])
            if self._read_tokens(whole)[0] != tokens:
                return None
        closed = [*accumulate((segment.closed for segment in filled), initial=0)][1:]
        return [counts[number] for number in closed], tokens

    def _read_tokens(self, text: str) -> tuple[list[int], bool]:
        """Return the control tokens and tags in the ids of a text that was encoded, and whether one ends it."""
        if text not in self._tokens:
            ids = self._ids[text]
            found = self.find_added(ids)
            self._tokens[text] = ids[found].tolist(), bool(len(found) and found[-1] == len(ids) - 1)
        return self._tokens[text]

    def place_headers(self, plan: RenderPlan) -> list[int]:
        """Return the place of each segment's header in `headers`, -1 where it has none."""
        import numpy as np

        placed = []
        for segment in plan.segments:
            key = segment.before, segment.header or 0
            if segment.header is not None and key not in self._places:
                ids = self._read_header(*key)
                same = (place for place, header in enumerate(self.headers) if np.array_equal(header, ids))
                self._places[key] = next(same, len(self.headers))
                self.headers += [ids] if self._places[key] == len(self.headers) else []
            placed.append(-1 if segment.header is None else self._places[key])
        return placed

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self.template.tokenizer)

    def _read_header(self, before: str, header: int) -> IdArray:
        """Return the ids of a header, with the token that reaches over its end where no text of a row can change it:
        a control token or tag stands behind it.
        """
        ids, whole = self._ids[before[:header]], self._ids[before]
        if header == len(before):
            return ids
        placed = self._token_bytes.place(whole.tolist(), before, [(header, len(before))])
        added = self.find_added(whole)
        if placed is None or not len(added):
            return ids
        first = placed.places[0][0]
        return whole[:first] if added[-1] >= first - 1 else ids

    def _encode_new(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        if new:
            ids, lengths = self.encode(new)
            ends = lengths.cumsum().tolist()
            starts = [0, *ends[:-1]]
            self._ids |= {text: ids[start:end] for text, start, end in zip(new, starts, ends, strict=True)}


def _lay_out(plan: RenderPlan) -> _Layout:
    filled = [segment for segment in plan.segments if segment.place is not None]
    closing = "".join(segment.before for segment in plan.segments if segment.place is None)
    parts = [""]
    for segment in filled:
        parts[-1] += segment.before + _WORD + segment.after
        parts += [""] if segment.closed else []
    parts[-1] += closing
    afters = ["", *(segment.after for segment in filled)]
    befores = [*(segment.before for segment in filled), closing]
    literals = [after + before for after, before in zip(afters, befores, strict=True)]
    written = tuple(part for literal in literals for part in (literal, ""))[:-1]
    headed = [one for one in plan.segments if one.header is not None]
    return _Layout(written, parts, [text for one in headed for text in (one.before[: one.header], one.before)])


def _join_turns(filled: Sequence[Segment], headers: Sequence[int], ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the header and the end of each segment, those of one turn as one."""
    joined: list[tuple[int, int]] = []
    for segment, header, end in zip(filled, headers, ends, strict=False):
        if segment.goes_on:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((header, end))
    return [header for header, _ in joined], [end for _, end in joined]


def write_chats(chats: Chats, tables: Sequence[SegmentTable | None]) -> tuple[list[str], list[int]]:
    """Return the conversations that have a table as texts, with their rows; those with a blank text are left out."""
    written: list[str] = []
    rows: list[int] = []
    texts, bounds = chats.texts, chats.bounds.tolist()
    for row, (table, has_outer_whitespace) in enumerate(zip(tables, chats.has_outer_whitespace.tolist(), strict=True)):
        if table is None:
            continue
        parts = list(table.parts)
        contents = texts[bounds[row] : bounds[row + 1]]
        as_they_are = table.in_order and len(contents) == len(table.places) and not has_outer_whitespace
        trimmed = contents if as_they_are else _trim(table, contents)
        if trimmed is None or not all(
            is_left_out(contents[place], [contents[one] for one in others]) for place, others in table.left_out
        ):
            continue
        parts[1::2] = trimmed
        written.append("".join(parts))
        rows.append(row)
    return written, rows


def _trim(table: SegmentTable, contents: Sequence[str]) -> list[str] | None:
    """Return the texts as they are written; None where one is blank, which templates may treat differently."""
    if any(not text or text.isspace() for text in contents):
        return None
    trimmed = []
    for place, operations in zip(table.places, table.operations, strict=True):
        text = trim(contents[place], operations)
        if not text or text.isspace():
            return None
        trimmed.append(text)
    return trimmed
