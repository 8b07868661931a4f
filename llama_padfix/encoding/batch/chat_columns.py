"""Conversations as columns: the roles of each row, and all texts in one list, read from Arrow or from rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llama_padfix.core.arrow import from_texts, pick_rows, take, temporary_pool, to_numpy
from llama_padfix.core.text import is_unicode
from llama_padfix.encoding.batch.opened import open_objects
from llama_padfix.encoding.batch.outlines import Reading, outline, read_outline, read_plain
from llama_padfix.encoding.batch.shapes.outlined_thoughts import find_tags, outline_thoughts
from llama_padfix.encoding.batch.tables.outline_columns import any_within, read_outlined
from llama_padfix.encoding.reading.side_columns import SIDE_COLUMNS
from llama_padfix.encoding.row_formats import CONTENT_KEYS, CONVERSATION_COLUMNS, READ_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import BoolArray, LongArray


@dataclass(frozen=True)
class Words:
    """What no text of a plain conversation may hold, and which of its objects are opened."""

    anywhere: Sequence[str] = ()
    in_completions: str = ""
    """What no text of a prompt and its answer may hold, where both are texts: it may be a rendered chat."""
    opened: frozenset[str] = frozenset()
    """What the template looks into: "tools", "arguments" or both."""


@dataclass(frozen=True)
class Chats:
    """The plain conversations and plain texts among some rows; `readings` is None for any other row.

    The texts of row `n` are `contents[bounds[n] : bounds[n + 1]]`, a list of `str` or an Arrow array of strings: one
    for each message, or the plain text. None of a conversation holds one of the words that it must not hold. Without
    `has_outer_whitespace`, no text of a row is blank, or begins or ends with white space.
    """

    readings: list[Reading | None]
    contents: list[str] | pa.Array
    bounds: LongArray
    has_outer_whitespace: BoolArray

    @cached_property
    def texts(self) -> list[str]:
        """All texts as `str`."""
        found: list[str] = self.contents if isinstance(self.contents, list) else self.contents.to_pylist()
        return found

    @cached_property
    def plain_texts(self) -> dict[int, str]:
        """The texts of the rows that hold no conversation, by row."""
        kinds = {reading for reading in dict.fromkeys(self.readings) if reading is not None and not reading.messages}
        if not kinds:
            return {}
        return {row: self.texts[self.bounds[row]] for row, reading in enumerate(self.readings) if reading in kinds}


def read_chat_rows(rows: Sequence[object], words: Words = Words()) -> Chats:
    """Read the plain conversations and texts among rows, or bare lists of messages, without changing them."""
    import numpy as np

    readings: list[Reading | None] = []
    texts: list[str] = []
    bounds = [0]
    tags = find_tags(words.anywhere)
    for row in rows:
        found = outline(row)
        if tags and found is not None:
            found = outline_thoughts(*found, tags, words.in_completions)
        reading = read_outline(found[0]) if found is not None else None
        if found is not None and reading is not None:
            placed: list[str] | None = reading.place(found[1])
            if words.opened and reading.by_shape:
                reading, placed = open_objects(reading, found[1], words.opened)
            if reading is not None and placed is not None and _holds_only_text(placed, reading, words):
                texts += placed
            else:
                reading = None
        readings.append(reading)
        bounds.append(len(texts))
    return Chats(readings, texts, np.asarray(bounds), np.ones(len(readings), bool))


def _holds_only_text(texts: Sequence[str], reading: Reading, words: Words) -> bool:
    """Return True if texts have ids, and hold none of the words."""
    joined = "\0".join(texts)
    if not (joined.isascii() or is_unicode(joined)):
        return False
    if reading.messages is None:
        return True
    if reading.written_arguments and reading.quotes(texts, joined):
        return False
    is_marked = reading.is_text and words.in_completions and words.in_completions in joined
    return not is_marked and not any(word in joined for word in words.anywhere)


def read_chat_table(table: pa.Table, words: Words = Words()) -> Chats:
    """Read the plain conversations and texts of a `pyarrow.Table`; see `read_chat_rows`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [name for name in table.column_names if name in READ_COLUMNS]
    if not names or len(set(table.column_names)) < len(table.column_names):
        return read_chat_rows([None] * table.num_rows)
    try:
        table = table.select(names).combine_chunks(temporary_pool())
    except pa.ArrowException:  # of columns of views, in some releases
        return read_chat_rows(_to_rows(table), words)
    if any(column.num_chunks != 1 for column in table.columns):  # none, or more than an array can hold
        return read_chat_rows(_to_rows(table), words)
    found = _find_columns(table)
    if found is None:
        return _read_outlines(table, words)
    column, key, lists, roles, contents, others = found
    odd = to_numpy(contents.is_null()) | to_numpy(roles.is_null())
    for other in others:
        odd |= to_numpy(other.is_valid())
    lengths = to_numpy(pc.list_value_length(lists))
    bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    plain = (lengths > 0) & ~any_within(odd, bounds)
    for name in SIDE_COLUMNS.intersection(table.column_names):
        if name != column:
            plain &= to_numpy(table[name].chunk(0).is_null())
    apart = ~plain
    if apart.all():
        return _read_outlines(table, words)
    plain &= ~_holds_word(contents, bounds, words.anywhere)
    others_apart = np.flatnonzero(~plain if find_tags(words.anywhere) else apart)
    outer = any_within(_may_have_outer_whitespace(contents), bounds)
    chats = Chats(_read_roles(roles, (column, key), bounds, plain), contents, bounds, outer)
    if not len(others_apart):
        return chats
    rest = pick_rows(table, others_apart).combine_chunks(temporary_pool())
    return _replace(chats, others_apart, _read_outlines(rest, words))


def _read_outlines(table: pa.Table, words: Words) -> Chats:
    """Read a table by the outlines of its rows, or row by row where it has other types."""
    import numpy as np

    found = read_outlined(table, _to_rows)
    if found is None:
        return read_chat_rows(_to_rows(table), words)
    readings, contents, bounds = found.readings, found.contents, found.bounds
    outer = any_within(_may_have_outer_whitespace(contents), bounds)
    kinds = {reading for reading in dict.fromkeys(readings) if reading is not None and reading.messages is not None}
    texts = {reading for reading in kinds if reading.is_text} if words.in_completions else {*()}
    odd = found.odd
    for among, refused in ((kinds, words.anywhere), (texts, [words.in_completions])):
        held = _holds_word(contents, bounds, refused if among else ())
        odd = odd | held if find_tags(refused) else odd  # to be parted at the tags
        for row in np.flatnonzero(held).tolist():
            readings[row] = None if readings[row] in among else readings[row]
    chats, apart = Chats(readings, contents, bounds, outer), np.flatnonzero(odd)
    if not len(apart):
        return chats
    return _replace(chats, apart, read_chat_rows(_to_rows(pick_rows(table, apart)), words))


def _holds_word(contents: pa.Array, bounds: LongArray, words: Sequence[str]) -> BoolArray:
    """Return for each row whether one of its texts holds one of some words."""
    import numpy as np
    import pyarrow.compute as pc

    if not words:
        return np.zeros(len(bounds) - 1, bool)
    # One expression for all: RE2 skips to where one may begin, and `match_substring` looks at each letter.
    found = pc.match_substring_regex(contents, "|".join(map(re.escape, words)))
    return any_within(to_numpy(found), bounds)


def take_rows(table: pa.Table, places: Sequence[int]) -> list[dict[str, object]]:
    """Return some rows of a table as Python values."""
    import pyarrow

    try:
        return [*pick_rows(table, places).to_pylist()]
    except pyarrow.ArrowNotImplementedError:  # of columns of views
        return [row for place in places for row in table.slice(place, 1).to_pylist()]


def _to_rows(table: pa.Table) -> Sequence[object]:
    """Return the rows of a table as Python values, with the columns that reading looks at; None where Arrow cannot."""
    import pyarrow

    try:
        rows: list[object] = table.select([name for name in table.column_names if name in READ_COLUMNS]).to_pylist()
    except pyarrow.ArrowException:  # of columns of views, in some releases
        return [None] * table.num_rows
    return rows or [None] * table.num_rows


def _replace(chats: Chats, rows: LongArray, others: Chats) -> Chats:
    """Return the conversations with those of some rows replaced."""
    import numpy as np
    import pyarrow as pa

    readings, outer, starts = chats.readings.copy(), chats.has_outer_whitespace.copy(), chats.bounds[:-1].copy()
    for row, reading in zip(rows.tolist(), others.readings, strict=True):
        readings[row] = reading
    sizes = np.diff(chats.bounds)
    outer[rows], sizes[rows] = others.has_outer_whitespace, np.diff(others.bounds)
    starts[rows] = others.bounds[:-1] + len(chats.contents)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    both = [from_texts(one) if isinstance(one, list) else one for one in (chats.contents, others.contents)]
    texts = pa.concat_arrays([one.cast(pa.large_string()) for one in both], temporary_pool())
    places = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], sizes)
    return Chats(readings, take(texts, places), bounds, outer)


def _find_columns(table: pa.Table) -> tuple[str, str, pa.Array, pa.Array, pa.Array, list[pa.Array]] | None:
    """Return the conversations of a table: column, key of the role, lists, roles, contents, and all other fields.

    None where the columns or their types are other than those of conversations.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = next((name for name in CONVERSATION_COLUMNS if name in table.column_names), None)
    if column is None:
        return None
    is_list = pa.types.is_list(table[column].type) or pa.types.is_large_list(table[column].type)
    if not is_list:
        return None
    lists = table[column].chunk(0)
    messages = lists.flatten()
    if not pa.types.is_struct(messages.type):
        return None
    fields = [messages.type.field(place).name for place in range(messages.type.num_fields)]
    key = next((name for name in CONTENT_KEYS if name in fields and CONTENT_KEYS[name] in fields), None)
    if key is None or len(set(fields)) != len(fields):
        return None
    values = {name: pc.struct_field(messages, name) for name in fields}
    contents, roles = values.pop(CONTENT_KEYS[key]), values.pop(key)
    if not {contents.type, roles.type} <= {pa.string(), pa.large_string()}:
        return None
    return column, key, lists, roles, contents, [*values.values()]


def _read_roles(roles: pa.Array, head: tuple[str, str], bounds: LongArray, plain: BoolArray) -> list[Reading | None]:
    """Return what reading makes of each plain row: one for all rows of a column and key with the same roles."""
    import numpy as np
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(roles)
    names = encoded.dictionary.to_pylist()
    codes = to_numpy(encoded.indices).astype(np.uint32)
    packed, known = codes.tobytes(), dict[bytes, Reading | None]()
    readings: list[Reading | None] = []
    edges = bounds.tolist()
    for is_plain, start, end in zip(plain.tolist(), edges, edges[1:], strict=False):
        if not is_plain:
            readings.append(None)
            continue
        coded = packed[4 * start : 4 * end]
        if coded not in known:
            known[coded] = read_plain(*head, tuple(names[code] for code in codes[start:end]))
        readings.append(known[coded])
    return readings


def _may_have_outer_whitespace(texts: pa.Array) -> BoolArray:
    """Return which texts are empty or may have white space at an end.

    In UTF-8, white space is at most a space in ASCII; any other letter beside ASCII may be some.
    """
    import numpy as np
    import pyarrow

    _, offsets, data = texts.buffers()
    width = np.int64 if pyarrow.types.is_large_string(texts.type) else np.int32
    edges = (
        np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else np.zeros(1, int)
    )
    has_outer_whitespace: BoolArray = edges[1:] == edges[:-1]
    if data is None or not data.size:
        return has_outer_whitespace
    letters = np.frombuffer(data, np.uint8)
    for places in (edges[:-1], edges[1:] - 1):
        found = letters[np.clip(places, 0, len(letters) - 1)]
        has_outer_whitespace |= (found <= 32) | (found >= 128)
    return has_outer_whitespace
