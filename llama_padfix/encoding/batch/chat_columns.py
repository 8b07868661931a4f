"""Conversations as columns: the roles of each row, and all texts in one list, read from Arrow or from rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import is_unicode
from llama_padfix.encoding.reading.side_columns import SIDE_COLUMNS, has_side_columns
from llama_padfix.encoding.row_formats import CONTENT_KEYS, CONVERSATION_COLUMNS, read_row

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import BoolArray, LongArray

Signature = tuple[str, ...]
"""The column, the key of the role, and the role of each message: one plan renders conversations that share these."""


@dataclass(frozen=True)
class Chats:
    """The plain conversations among some rows; `signatures` is None for any other row.

    The texts of row `n` are `contents[bounds[n] : bounds[n + 1]]`, a list of `str` or an Arrow array of strings. A
    plain conversation has a role and a text in each message and nothing else, and none of its texts holds one of the
    forbidden substrings. Without `has_outer_whitespace`, no text of a row is blank, or begins or ends with white
    space.
    """

    signatures: list[Signature | None]
    contents: list[str] | pa.Array
    bounds: LongArray
    has_outer_whitespace: BoolArray

    @cached_property
    def texts(self) -> list[str]:
        """All texts as `str`."""
        found: list[str] = self.contents if isinstance(self.contents, list) else _to_numpy(self.contents).tolist()
        return found


def read_roles(signature: Signature) -> tuple[str, ...] | None:
    """Return the roles that a chat template is given for a signature; None where reading changes more."""
    column, key, *spelled = signature
    roles = [_read_role(column, key, role) for role in spelled]
    return None if None in roles else tuple(role for role in roles if role is not None)


@lru_cache(maxsize=1024)
def _read_role(column: str, key: str, role: str) -> str | None:
    """Return the role that a message is given, whatever messages stand beside it; None where reading changes more."""
    try:
        [message] = read_row({column: [{key: role, CONTENT_KEYS[key]: "text"}]}).messages or [{}]
    except (PadfixError, ValueError):
        return None
    read = str(message.get("role"))
    return read if message == {"role": read, "content": "text"} else None


def read_chat_rows(rows: Sequence[object], words: Sequence[str] = ()) -> Chats:
    """Read the plain conversations among rows, or bare lists of messages, without changing them.

    `words` are what no text of a plain conversation may hold.
    """
    import numpy as np

    signatures: list[Signature | None] = []
    texts: list[str] = []
    bounds = [0]
    for row in rows:
        found = _read_plain_row(row)
        if found is not None:
            contents = "\0".join(found[1])
            if any(word in contents for word in words) or not (contents.isascii() or is_unicode(contents)):
                found = None
        signatures.append(found[0] if found else None)
        texts += found[1] if found else ()
        bounds.append(len(texts))
    return Chats(signatures, texts, np.asarray(bounds), np.ones(len(signatures), bool))


def _read_plain_row(row: object) -> tuple[Signature, list[str]] | None:
    """Return the signatures and texts of a plain conversation; None for any other row."""
    column = "messages"
    if isinstance(row, Mapping):
        column = next((name for name in CONVERSATION_COLUMNS if row.get(name) is not None), "")
        if not column or (len(row) > 1 and has_side_columns(row)):
            return None
        row = row[column]
    if type(row) is not list or not row or type(row[0]) is not dict:  # a subclass may behave differently
        return None
    key = "role" if "role" in row[0] else "from"
    content_key = CONTENT_KEYS[key]
    expected = {key, content_key}
    roles, texts = [column, key], []
    for message in row:
        if type(message) is not dict or message.keys() != expected:
            return None
        roles.append(message[key])
        texts.append(message[content_key])
    if {*map(type, roles), *map(type, texts)} != {str}:
        return None
    return tuple(roles), texts


def read_chat_table(table: pa.Table, words: Sequence[str] = ()) -> Chats:
    """Read the plain conversations of a `pyarrow.Table`; see `read_chat_rows`."""
    import numpy as np
    import pyarrow.compute as pc

    found = _find_columns(table)
    if found is None:
        count = table.num_rows
        return Chats([None] * count, [], np.zeros(count + 1, np.int64), np.ones(count, bool))
    column, key, lists, roles, contents, others = found
    odd = _to_numpy(contents.is_null()) | _to_numpy(roles.is_null())
    for other in others:
        odd |= _to_numpy(other.is_valid())
    if words:  # one expression for all: RE2 skips to where one may begin, `match_substring` looks at each letter
        found_word = pc.match_substring_regex(contents, "|".join(map(re.escape, words)))
        odd |= _to_numpy(pc.fill_null(found_word, False))
    lengths = _to_numpy(pc.fill_null(pc.list_value_length(lists), 0))
    bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    plain = (lengths > 0) & ~_any_within(odd, bounds)
    for name in SIDE_COLUMNS.intersection(table.column_names):
        if name != column:
            plain &= _to_numpy(table[name].combine_chunks().is_null())
    outer = _any_within(_may_have_outer_whitespace(contents), bounds)
    return Chats(_read_signatures(roles, (column, key), bounds, plain), contents, bounds, outer)


def _find_columns(table: pa.Table) -> tuple[str, str, pa.Array, pa.Array, pa.Array, list[pa.Array]] | None:
    """Return the conversations of a table: column, key of the role, lists, roles, contents, and all other fields.

    None where the columns or their types are other than those of conversations.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = next((name for name in CONVERSATION_COLUMNS if name in table.column_names), None)
    if column is None or len(set(table.column_names)) < len(table.column_names):
        return None
    lists = table[column].combine_chunks()
    is_list = pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)
    if not is_list or isinstance(lists, pa.ChunkedArray):  # that of an empty table
        return None
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


def _read_signatures(
    roles: pa.Array, head: tuple[str, str], bounds: LongArray, plain: BoolArray
) -> list[Signature | None]:
    """Return the signature of each plain row: `head` and its roles, one tuple for all rows with the same ones."""
    import numpy as np
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(roles)
    names = encoded.dictionary.to_pylist()
    codes = _to_numpy(pc.fill_null(encoded.indices, 0)).astype(np.uint32)
    packed, known = codes.tobytes(), dict[bytes, Signature]()
    signatures: list[Signature | None] = []
    edges = bounds.tolist()
    for is_plain, start, end in zip(plain.tolist(), edges, edges[1:], strict=False):
        if not is_plain:
            signatures.append(None)
            continue
        coded = packed[4 * start : 4 * end]
        found = known.get(coded)
        if found is None:
            found = known[coded] = (*head, *(names[code] for code in codes[start:end]))
        signatures.append(found)
    return signatures


def _any_within(flags: BoolArray, bounds: LongArray) -> BoolArray:
    """Return for each span of `bounds` whether a flag in it is set."""
    import numpy as np

    before = np.append(0, np.cumsum(flags))
    found: BoolArray = before[bounds[1:]] != before[bounds[:-1]]
    return found


def _to_numpy(array: pa.Array) -> Any:  # of the array's own dtype
    return array.to_numpy(zero_copy_only=False)


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
