"""Which media a row holds, and where they stand in its messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.media.values import KINDS, Medium
from llama_padfix.encoding.reading.json_values import as_list
from llama_padfix.encoding.reading.side_columns import MEDIA
from llama_padfix.encoding.row_formats import CONTENT_KEYS, CONVERSATION_COLUMNS, Conversation, read_row

if TYPE_CHECKING:
    from llama_padfix.core.types import MessageDict

_COLUMNS = (*CONVERSATION_COLUMNS, "prompt", "completion")
TEXT_COLUMNS = (*_COLUMNS, "text")
"""The columns of text that TRL's trainers read too."""
_MARK = "\U0010fffdllama-padfix medium %d\U0010fffc"  # the text that stands for a part while the row is read
_TYPES = {name: kind for kind in KINDS for name in (kind, f"{kind}_url", f"input_{kind}")}
_KEYS = ("path", "url", "base64", "data")  # of a part, beside its kind and type


def read_media_row(row: object) -> tuple[Conversation, list[Medium]]:
    """Return a row as a conversation whose messages hold parts such as `{"type": "image"}`, and its media in order.

    Media stand in the parts themselves, or in the columns `image`, `images`, `video`, `videos`, `audio` and `audios`;
    those go to the parts without a value, or to `<image>`, `<video>` and `<audio>` in the text of questions, in order.
    A conversation with neither gets them in front of its first question.

    Raises:
        PadfixError: `read_row` refuses the row, or its media and the places for them differ.
    """
    columns = dict(row) if isinstance(row, Mapping) else {"messages": row}
    pools = {kind: read_column(columns, kind) for kind in KINDS}
    given: list[Medium] = []  # a medium without a value takes one of a column
    for name in _COLUMNS:
        if as_list(columns.get(name)) is not None:
            columns[name] = [_mark_parts(entry, given) for entry in as_list(columns[name]) or ()]
    found = read_row({name: value for name, value in columns.items() if name not in MEDIA})
    if found.messages is None:
        if not any(pools.values()):
            return found, []
        raise PadfixError(
            "the row holds plain text and media, and nothing says where they belong. Pass messages: "
            '{"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}, ...]}'
        )
    messages, media = _place(found.messages, given, pools)
    return (replace(found, messages=messages), media) if media else (found, [])


def holds_messages(row: Mapping[str, object]) -> bool:
    """Return True for a row that has messages, and not the media alone."""
    return any(row.get(name) is not None for name in (*TEXT_COLUMNS, "instruction"))


def read_column(columns: Mapping[str, Any], kind: str) -> list[Medium]:  # columns of any values
    """Return the media of one kind that stand in columns."""
    names = [name for name in (kind, f"{kind}s") if not _is_blank(columns.get(name))]
    if len(names) > 1:
        raise PadfixError(
            f"the row has {names[0]} and {names[1]}, and only one of them can be what it shows; drop the other: "
            f'dataset.remove_columns("{names[0]}")'
        )
    if not names:
        return []
    value = columns[names[0]]
    one = not isinstance(value, list | tuple) or (names[0] == kind != "image" and not _holds_media(value))
    return [Medium(kind, item, f"{kind} {place}", True) for place, item in enumerate([value] if one else value)]


def _holds_media(values: Sequence[object]) -> bool:
    """Return True for a list of several videos or sounds; False for the frames or samples of one."""
    return any(isinstance(value, str | Mapping | list | tuple) or hasattr(value, "shape") for value in values)


def _is_blank(value: object) -> bool:
    is_nan = isinstance(value, float) and value != value  # which pandas fills in
    return value is None or is_nan or (isinstance(value, str | list | tuple) and not value)


def _mark_parts(entry: object, given: list[Medium]) -> object:
    """Return a message whose media are texts that stand for them; the media are appended to `given`."""
    if not isinstance(entry, Mapping):
        return entry
    key = next((content for role, content in CONTENT_KEYS.items() if entry.get(role) is not None), "content")
    parts = as_list(entry.get(key))
    if parts is None:
        return entry
    marked = []
    for part in parts:
        kind = _find_kind(part) if isinstance(part, Mapping) else ""
        if kind:
            given.append(Medium(kind, _find_value(part, kind), f"{kind} {len(given)}"))
            part = {"type": "text", "text": _MARK % (len(given) - 1)}
        elif isinstance(part, Mapping) and part.get("type", "text") in ("text", None):
            part = {"type": "text", "text": part.get("text")}  # without what Arrow filled in
        marked.append(part)
    return {**entry, key: marked}


def _find_kind(part: Mapping[str, Any]) -> str:
    """Return the kind of a part; "" for text."""
    if part.get("type") is not None:
        return _TYPES.get(part["type"], "")
    return next((kind for kind in KINDS if part.get(kind) is not None), "")


def _find_value(part: Mapping[str, Any], kind: str) -> object:
    names = (kind, f"{kind}_url", f"input_{kind}", *_KEYS)
    value = next((part[name] for name in names if part.get(name) is not None), None)
    if isinstance(value, Mapping) and set(value) - {"detail"} in ({"url"}, {"data", "format"}):  # OpenAI's
        value = value.get("url", value.get("data"))
    return value


def _place(
    messages: Sequence[MessageDict], given: Sequence[Medium], pools: Mapping[str, Sequence[Medium]]
) -> tuple[list[MessageDict], list[Medium]]:
    """Return messages with parts for media, and the media in the order of the parts."""
    marks = {_MARK % place: medium for place, medium in enumerate(given)}
    wanting = {kind for kind in KINDS if pools[kind] and not any(m.kind == kind and m.value is None for m in given)}
    spelled = {f"<{kind}>": kind for kind in sorted(wanting)}
    places: list[tuple[int, Medium]] = []  # by message
    placed = []
    for index, message in enumerate(messages):
        parts = [*_split(message.get("content"), marks, spelled if message["role"] != "assistant" else {})]
        found = [(index, part) for part in parts if isinstance(part, Medium)]
        places += found
        written = [{"type": part.kind} if isinstance(part, Medium) else _text(part) for part in parts]
        placed.append({**message, "content": written} if found else message)
    if sum(any(medium is one for one in given) for _, medium in places) != len(given):
        raise PadfixError("a message spells the private mark of llama-padfix for a medium. Remove the mark")
    for kind in wanting - {medium.kind for _, medium in places if medium.value is None}:
        first = next((at for at, message in enumerate(placed) if message["role"] == "user"), None)
        if first is not None and not any(medium.kind == kind for _, medium in places):
            new = [Medium(kind, None, "") for _ in pools[kind]]
            content = placed[first]["content"]
            texts = [_text(content)] if isinstance(content, str) else content
            placed[first] = {**placed[first], "content": [*({"type": kind} for _ in new), *texts]}
            before = next((at for at, (index, _) in enumerate(places) if index >= first), len(places))
            places[before:before] = [(first, one) for one in new]
    return placed, [*_fill(places, pools, messages)]


def _fill(
    places: Sequence[tuple[int, Medium]], pools: Mapping[str, Sequence[Medium]], messages: Sequence[MessageDict]
) -> Iterator[Medium]:
    """Yield the media of the places, those without a value from the columns."""
    for index, medium in places:
        if messages[index]["role"] == "assistant":
            raise PadfixError(
                f"message {index} is the assistant's and holds {_name(medium.kind)}, which no model here makes, so "
                "that it can be neither trained nor left out. Move it into a question, or drop the row"
            )
    for kind in KINDS:
        empty = sum(medium.kind == kind and medium.value is None for _, medium in places)
        if empty != len(pools[kind]):
            raise PadfixError(
                f"the row has {len(pools[kind])} of kind {kind} in its columns and {empty} places for them "
                f'(`{{"type": "{kind}"}}` without a value, or `<{kind}>` in a question). Write one place for each'
            )
    numbers = {kind: count() for kind in KINDS}
    for _, medium in places:
        yield medium if medium.value is not None else pools[medium.kind][next(numbers[medium.kind])]


def _split(content: object, marks: Mapping[str, Medium], spelled: Mapping[str, str]) -> Iterator[str | Medium]:
    """Yield the texts and media of a message's content, in order."""
    for part in [content] if isinstance(content, str) else as_list(content) or ():
        text = part["text"] if isinstance(part, Mapping) else part
        pieces = re.split(f"({'|'.join(spelled)})", text) if spelled else [text]
        if text in marks:
            yield marks[text]
        elif len(pieces) == 1:
            yield text  # an empty one too, around which a template may write a space
        else:
            yield from (Medium(spelled[piece], None, "") if piece in spelled else piece for piece in pieces if piece)


def _text(text: str) -> MessageDict:
    return {"type": "text", "text": text}


def _name(kind: str) -> str:
    return f"an {kind}" if kind != "video" else "a video"
