"""Conversations as columns: who speaks in each row, and all texts in one list, read from Arrow or from rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import is_unicode
from llama_padfix.encoding.row_formats import read_row
from llama_padfix.encoding.sources import CONVERSATION_COLUMNS

__all__ = ["Chats", "Speakers", "read_chat_rows", "read_chat_table", "read_roles"]

Speakers = tuple[str, ...]
"""The column, the key of the role, and the role of each message: conversations that share these look alike."""

_KEYS = {"role": "content", "from": "value"}


@dataclass(frozen=True)
class Chats:
    """The plain conversations among some rows; `speakers` is None for a row that is no such.

    The texts of row `n` are `said[bounds[n] : bounds[n + 1]]`, a list of `str` or an Arrow array of strings. A plain
    conversation has a role and a text in each message and nothing else, and none of its texts holds one of the words
    that were asked for. Where a row is not `ragged`, no text of it is blank, or begins or ends with white space.
    """

    speakers: list[Speakers | None]
    said: Any
    bounds: Any
    ragged: Any

    @cached_property
    def texts(self) -> list[str]:
        """All texts as `str`."""
        found: list[str] = self.said if isinstance(self.said, list) else _to_numpy(self.said).tolist()
        return found


def read_roles(speakers: Speakers) -> tuple[str, ...] | None:
    """Return the roles that a chat template is given for these speakers; None where reading changes more."""
    column, key, *spelled = speakers
    row = {column: [{key: role, _KEYS[key]: "text"} for role in spelled]}
    try:
        messages = read_row(row).messages or []
    except PadfixError:
        return None
    roles = tuple(str(message["role"]) for message in messages)
    same = [{"role": role, "content": "text"} for role in roles] == messages and len(roles) == len(spelled)
    return roles if same else None


def read_chat_rows(rows: Sequence[Any], words: Sequence[str] = ()) -> Chats:
    """Read the plain conversations among rows, or bare lists of messages, without changing them.

    `words` are what no text of a plain conversation may hold.
    """
    import numpy

    speakers: list[Speakers | None] = []
    texts: list[str] = []
    bounds = [0]
    for row in rows:
        found = _read_plainly(row)
        if found is not None:
            said = "\0".join(found[1])
            if any(word in said for word in words) or not (said.isascii() or is_unicode(said)):
                found = None
        speakers.append(found[0] if found else None)
        texts += found[1] if found else ()
        bounds.append(len(texts))
    return Chats(speakers, texts, numpy.asarray(bounds), numpy.ones(len(speakers), bool))


def _read_plainly(row: Any) -> tuple[Speakers, list[str]] | None:
    """Return the speakers and texts of a plain conversation; None for any other row."""
    column = "messages"
    if isinstance(row, Mapping):
        column = next((name for name in CONVERSATION_COLUMNS if row.get(name) is not None), "")
        if not column or row.get("tools") is not None or row.get("system") is not None:
            return None
        row = row[column]
    if type(row) is not list or not row or type(row[0]) is not dict:  # a class of somebody's own may tell another tale
        return None
    key = "role" if "role" in row[0] else "from"
    wanted = {key, _KEYS[key]}
    roles, texts = [column, key], []
    for message in row:
        if type(message) is not dict or message.keys() != wanted:
            return None
        roles.append(message[key])
        texts.append(message[_KEYS[key]])
    if {*map(type, roles), *map(type, texts)} != {str}:
        return None
    return tuple(roles), texts


def read_chat_table(table: Any, words: Sequence[str] = ()) -> Chats:
    """Read the plain conversations of a `pyarrow.Table`; see `read_chat_rows`."""
    import numpy
    import pyarrow
    import pyarrow.compute

    count = table.num_rows
    nothing = Chats([None] * count, [], numpy.zeros(count + 1, numpy.int64), numpy.ones(count, bool))
    column = next((name for name in CONVERSATION_COLUMNS if name in table.column_names), None)
    if column is None or len(set(table.column_names)) < len(table.column_names):
        return nothing
    lists = table[column].combine_chunks()
    if isinstance(lists, pyarrow.ChunkedArray):  # of an empty table
        return nothing
    if not (pyarrow.types.is_list(lists.type) or pyarrow.types.is_large_list(lists.type)):
        return nothing
    messages = lists.flatten()
    if not pyarrow.types.is_struct(messages.type):
        return nothing
    fields = [messages.type.field(place).name for place in range(messages.type.num_fields)]
    key = next((name for name in _KEYS if name in fields and _KEYS[name] in fields), None)
    if key is None or len(set(fields)) != len(fields):
        return nothing
    values = {name: pyarrow.compute.struct_field(messages, name) for name in fields}
    said, spoken = values.pop(_KEYS[key]), values.pop(key)
    if not (_is_text(pyarrow, said.type) and _is_text(pyarrow, spoken.type)):
        return nothing
    odd = _to_numpy(said.is_null()) | _to_numpy(spoken.is_null())
    for other in values.values():
        odd |= _to_numpy(other.is_valid())
    for word in words:
        odd |= _to_numpy(pyarrow.compute.fill_null(pyarrow.compute.match_substring(said, word), False))
    lengths = _to_numpy(pyarrow.compute.fill_null(pyarrow.compute.list_value_length(lists), 0))
    bounds = numpy.concatenate([[0], numpy.cumsum(lengths, dtype=numpy.int64)])
    plain = lengths > 0
    for name in ("tools", "system"):
        if name in table.column_names:
            plain &= _to_numpy(table[name].combine_chunks().is_null())
    before = numpy.concatenate([[0], numpy.cumsum(odd)])
    plain &= before[bounds[1:]] == before[bounds[:-1]]

    roles = pyarrow.compute.dictionary_encode(spoken)
    names = roles.dictionary.to_pylist()
    codes = _to_numpy(pyarrow.compute.fill_null(roles.indices, 0)).astype(numpy.uint32)
    packed, known = codes.tobytes(), dict[bytes, Speakers]()
    speakers: list[Speakers | None] = []
    edges = bounds.tolist()
    for is_plain, start, end in zip(plain.tolist(), edges, edges[1:], strict=False):
        if not is_plain:
            speakers.append(None)
            continue
        coded = packed[4 * start : 4 * end]
        found = known.get(coded)
        if found is None:
            found = known[coded] = (column, key, *(names[code] for code in codes[start:end]))
        speakers.append(found)
    before = numpy.append(0, numpy.cumsum(_may_be_ragged(*_read_bytes(pyarrow, said))))
    return Chats(speakers, said, bounds, before[bounds[1:]] != before[bounds[:-1]])


def _to_numpy(array: Any) -> Any:
    return array.to_numpy(zero_copy_only=False)


def _is_text(pyarrow: Any, kind: Any) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _read_bytes(pyarrow: Any, texts: Any) -> tuple[Any, Any]:
    """Return the UTF-8 of all texts, one behind the other, and where each begins and the last one ends."""
    import numpy

    _, offsets, data = texts.buffers()
    width = numpy.int64 if pyarrow.types.is_large_string(texts.type) else numpy.int32
    edges = numpy.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else [0]
    letters = numpy.frombuffer(data, numpy.uint8) if data is not None and data.size else numpy.zeros(0, numpy.uint8)
    return letters, numpy.asarray(edges, numpy.int64)


def _may_be_ragged(letters: Any, edges: Any) -> Any:
    """Return which texts are empty or may have white space at an end, as booleans.

    White space is at most a space in ASCII; any other letter beside ASCII may be some.
    """
    import numpy

    ragged = edges[1:] == edges[:-1]
    if not len(letters):
        return ragged
    for places in (edges[:-1], edges[1:] - 1):
        found = letters[numpy.clip(places, 0, len(letters) - 1)]
        ragged |= (found <= 32) | (found >= 128)
    return ragged
