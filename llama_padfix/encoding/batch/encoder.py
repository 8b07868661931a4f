"""Plain conversations to ids and labels in flat arrays: one text a row, one call of the engine, no list of ids.

A conversation of roles and texts is written out by a recipe. Its control tokens part it, so that the ids of the whole
are the ids of the parts; where they stand in the ids tells what is trained, and that no text spells one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from llama_padfix.chat.render import ChatTemplate
from llama_padfix.core.errors import IGNORE_INDEX
from llama_padfix.encoding.batch.chat_columns import Chats, Speakers, read_roles
from llama_padfix.encoding.batch.plan_arrays import Plan, PlanArrays, write_chats
from llama_padfix.encoding.batch.render_plan import Piece, RenderPlan, learn_render_plan, parts_at_controls
from llama_padfix.encoding.span_labels import mark_spans, write_labels
from llama_padfix.tokens.control import special_ids

__all__ = ["BatchEncoder", "Flat", "make_batch_encoder"]

_WORD = "Word"
_MOST = 1000  # sequences of roles that are learned, at about a millisecond each

Encode = Callable[[Sequence[str]], tuple[Any, Any]]


@dataclass(frozen=True)
class Flat:
    """Encoded rows one behind the other: numpy arrays of ids and labels (int32) and of the rows' numbers and bounds.

    Row `rows[n]` is at `bounds[n] : bounds[n + 1]`, and was `lengths[n]` tokens long before it was cut; a row of no
    tokens was dropped, since no trained turn of it fits. `trained` is the number of trained tokens of all rows.
    """

    rows: Any
    bounds: Any
    input_ids: Any
    labels: Any
    lengths: Any
    trained: int


@dataclass
class BatchEncoder:
    """What is known of a template's plain conversations; grows with each new sequence of roles.

    `words` are what the template asks for in a text, so that no plain conversation may hold it. Added tokens that a
    text spells show in the ids, which then hold more of them than the template writes.
    """

    template: ChatTemplate
    encode: Encode
    last_only: bool
    words: list[str] = field(default_factory=list)
    plans: dict[Speakers, Plan | None] = field(default_factory=dict)
    headers: list[Any] = field(default_factory=list)
    header_places: dict[str, int] = field(default_factory=dict)
    recipes: dict[tuple[str, ...], Plan | None] = field(default_factory=dict)
    layouts: PlanArrays = field(default_factory=PlanArrays)
    lowest: int = 0
    is_added: Any = None
    rows: int = 0  # that went this way so far
    compared: bool = False  # whether a whole row went both ways

    def __post_init__(self) -> None:
        import numpy

        ids = list({**self.template.tokenizer.get_added_vocab(), **special_ids(self.template.tokenizer)}.values())
        self.lowest = min(ids)
        self.is_added = numpy.zeros(max(ids) - self.lowest + 2, bool)  # the last one stands for all higher ids
        self.is_added[[token_id - self.lowest for token_id in ids]] = True

    def learn(self, chats: Chats) -> bool:
        """Learn the recipes of all speakers; return whether there are new words that no conversation may spell."""
        known = len(self.words)
        for speakers in dict.fromkeys(chats.speakers):
            if speakers is not None and speakers not in self.plans:
                self.plans[speakers] = self._plan(speakers)
        return len(self.words) > known

    def _plan(self, speakers: Speakers) -> Plan | None:
        roles = read_roles(speakers) if len(self.plans) < _MOST else None
        if roles is None:
            return None
        if roles not in self.recipes:
            recipe = learn_render_plan(self.template, roles) if "assistant" in roles else None
            self.recipes[roles] = self._lay_out(recipe) if recipe is not None else None
        return self.recipes[roles]

    def _lay_out(self, recipe: RenderPlan) -> Plan | None:
        """Lay a recipe out; None where the added tokens that it writes do not part its pieces."""
        headers = [-1 if piece.header is None else self._place_header(piece) for piece in recipe.pieces]
        if not all(len(self.headers[header]) for header in headers if header >= 0):
            return None  # position 0 is never trained: something must stand in front of an answer
        if self.last_only:
            last = max(place for place, header in enumerate(headers) if header >= 0)
            headers = [header if place == last else -1 for place, header in enumerate(headers)]
        spoken = [piece for piece in recipe.pieces if piece.message is not None]
        closing = "".join(piece.before for piece in recipe.pieces if piece.message is None)
        texts = [*accumulate(piece.before + _WORD + piece.after for piece in spoken)]
        encoded = [self.encode([text])[0] for text in [*texts, texts[-1] + closing]]
        places = [self._find_added(ids) for ids in encoded]
        tokens = [ids[found].tolist() for ids, found in zip(encoded, places, strict=True)]
        for ids, found, written in zip(encoded[:-1], places, tokens, strict=False):
            if len(ids) - 1 not in found or tokens[-1][: len(written)] != written:
                return None
        self.words += sorted(recipe.lacks - set(self.words))
        edges, befores = ["", *(piece.after for piece in spoken)], [*(piece.before for piece in spoken), closing]
        literals = [after + before for after, before in zip(edges, befores, strict=True)]
        messages = tuple(piece.message for piece in spoken if piece.message is not None)
        operations = tuple(piece.operations for piece in spoken)
        return Plan(
            number=self.layouts.add(headers[: len(spoken)], [*map(len, tokens[:-1])], tokens[-1]),
            parts=tuple(part for literal in literals for part in (literal, ""))[:-1],
            messages=messages,
            operations=operations,
            straight=messages == tuple(range(len(messages))) and {*operations} <= {(), (("strip", None),)},
        )

    def _find_added(self, ids: Any) -> Any:
        """Return the places of all added tokens."""
        import numpy

        places = numpy.flatnonzero(ids >= self.lowest)
        return places[self.is_added[numpy.minimum(ids[places] - self.lowest, len(self.is_added) - 1)]]

    def _place_header(self, piece: Piece) -> int:
        text = piece.before[: piece.header]
        if text not in self.header_places:
            self.header_places[text] = len(self.headers)
            self.headers.append(self.encode([text])[0])
        return self.header_places[text]

    def encode_chats(self, chats: Chats, max_length: int | None, truncation: str) -> Flat | None:
        """Encode the rows whose recipe is known; rows that prove to be no plain ones are left out of the result.

        Such are rows with a blank text, rows whose header melts into the answer, and with `truncation="error"` those
        that are too long. Returns None where no row is left.
        """
        import numpy

        plans = [None if speakers is None else self.plans.get(speakers) for speakers in chats.speakers]
        written, rows = write_chats(chats, plans)
        if not rows:
            return None
        ids, sizes = self.encode(written)
        row_ends = numpy.cumsum(sizes, dtype=numpy.int64)
        row_starts = row_ends - sizes
        first, last, proven = self._find_turns(ids, row_starts, [plan.number for row in rows if (plan := plans[row])])
        kept_ends, whole = _find_ends(row_starts, row_ends, first, last, max_length, truncation)
        left_out = ~proven if truncation != "error" else ~(proven & whole)
        labels = write_labels(ids, first, last, numpy.empty_like(ids))
        numbers, lengths = numpy.asarray(rows)[~left_out], sizes[~left_out]
        trained = int((last - first).sum())
        if not whole.all() or left_out.any():
            kept_ends[left_out] = row_starts[left_out]
            kept = mark_spans(row_starts, kept_ends, len(ids))
            ids, labels = ids[kept], labels[kept]
            trained = int(numpy.count_nonzero(labels != IGNORE_INDEX))
        return Flat(
            rows=numbers,
            bounds=numpy.concatenate([[0], numpy.cumsum((kept_ends - row_starts)[~left_out])]),
            input_ids=ids,
            labels=labels,
            lengths=lengths,
            trained=trained,
        )

    def _find_turns(self, ids: Any, row_starts: Any, numbers: Sequence[int]) -> tuple[Any, Any, Any]:
        """Return the first and last places of what is trained, and which rows are as their plans say.

        The added tokens of such a row are those that the template writes, one by one, and each piece ends with one.
        The ids of a header are looked for where it must stand: where they are others, it melts into the answer.
        """
        import numpy

        layouts, plans = self.layouts, numpy.asarray(numbers)
        places = self._find_added(ids)
        before = numpy.searchsorted(places, row_starts)
        found = numpy.append(before[1:], len(places)) - before
        token_bounds = numpy.asarray(layouts.token_bounds)
        proven = found == numpy.diff(token_bounds)[plans]
        of_row = numpy.repeat(numpy.arange(len(plans)), found)
        nth = numpy.arange(len(places)) - before[of_row]
        wanted = numpy.asarray(layouts.tokens)[
            numpy.minimum(token_bounds[plans][of_row] + nth, len(layouts.tokens) - 1)
        ]
        proven[of_row[ids[places] != wanted]] = False

        bounds = numpy.asarray(layouts.bounds)
        counts = numpy.diff(bounds)[plans]
        first_pieces = numpy.cumsum(counts) - counts
        of_row = numpy.repeat(numpy.arange(len(plans)), counts)
        pieces = numpy.arange(len(of_row)) + (bounds[plans] - first_pieces)[of_row]
        headers, nth = numpy.asarray(layouts.headers)[pieces], numpy.asarray(layouts.ends)[pieces]
        ends = numpy.append(places, 0)[numpy.minimum(before[of_row] + nth - 1, len(places))] + 1
        starts = numpy.append(0, ends[:-1])
        starts[first_pieces] = row_starts
        trained = numpy.flatnonzero((headers >= 0) & proven[of_row])
        headers, of_row, first, last = headers[trained], of_row[trained], starts[trained], ends[trained]
        for code, header in enumerate(self.headers):
            mine = numpy.flatnonzero(headers == code)
            window = numpy.minimum(first[mine, None] + numpy.arange(len(header)), len(ids) - 1)
            melted = (ids[window] != header).any(axis=1) | (last[mine] - first[mine] <= len(header))
            proven[of_row[mine[melted]]] = False
            first[mine] += len(header)
        sound = proven[of_row]
        return first[sound], last[sound], proven


def make_batch_encoder(template: ChatTemplate, encode: Encode, train_on: Any) -> BatchEncoder | None:
    """Return the plain way of a template; None where it has none: ids of parts differ, or each turn is asked for."""
    if callable(train_on) or not parts_at_controls(template.tokenizer) or not special_ids(template.tokenizer):
        return None
    return BatchEncoder(template, encode, train_on == "last")


def _find_ends(
    row_starts: Any, row_ends: Any, first: Any, last: Any, max_length: int | None, truncation: str
) -> tuple[Any, Any]:
    """Return where each row ends when it is cut (where it starts, if nothing trained is left), and which are whole."""
    import numpy

    ends = row_ends.copy()
    if max_length is None:
        return ends, numpy.ones(len(ends), bool)
    limits = row_starts + max_length
    whole = row_ends <= limits
    over = numpy.flatnonzero(~whole)
    if not len(first):  # no row proved to be a plain one
        ends[over] = row_starts[over]
        return ends, whole
    if truncation == "tokens":
        place = numpy.searchsorted(first, limits[over], side="left") - 1
        cut = limits[over]
    else:
        place = numpy.searchsorted(last, limits[over], side="right") - 1
        cut = last[numpy.maximum(place, 0)]
    fits = (place >= 0) & (first[numpy.maximum(place, 0)] > row_starts[over])
    ends[over] = numpy.where(fits, cut, row_starts[over])
    return ends, whole
