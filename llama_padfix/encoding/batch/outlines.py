"""What reading a row depends on beside its texts: rows of one outline are read once, by `read_row` itself.

Reading looks at which columns and keys a row has, at its roles and flags, and at which of its texts are empty. Of the
texts it only says where they go. So the outline of a row, with a mark in place of each text, is read in place of all
rows that share it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from llama_padfix.chat.messages import called_functions, holds_parts
from llama_padfix.chat.symbolic_slots import Hole, Joined
from llama_padfix.chat.traced_render import REASONING_KEYS
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.batch.shapes.outlined_calls import are_quoted, outline_calls, outline_tools
from llama_padfix.encoding.loss_selection import choose_turns
from llama_padfix.encoding.reading.side_columns import TEMPLATE_KWARGS, TOOLS
from llama_padfix.encoding.row_formats import CONTENT_KEYS, READ_COLUMNS, Conversation, read_row

if TYPE_CHECKING:
    from typing import TypeAlias

    from llama_padfix.core.types import MessageDict
    from llama_padfix.encoding.settings import TrainOn

    Outline: TypeAlias = Any
    """A nested tuple: the type `str` stands for a text, `dict` for an object that is written as JSON; `(list, ...)`
    and `(dict, key, item, ...)` hold others, `(str, ...)` the tags around a thought and an answer."""

SPOKEN = frozenset({"role", "from", "type", *TOOLS, TEMPLATE_KWARGS})
"""The keys whose texts are read for what they say."""

CALLS = frozenset({"tool_calls", "function_call"})
"""Keys of calls: `read_calls` reads the first, and the other is read one by one unless it is empty."""

_Item = TypeVar("_Item")
_MARK = "\ue000%d\ue001"
_MARKS = re.compile("\ue000(\\d+)\ue001")
_NUMBERS = (bool, int, float)
_SHAPING = frozenset({"tool_calls", *REASONING_KEYS})


class _OddError(Exception):
    """A value that is read one by one: of a class of its own, or a call."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What reading makes of all rows of one outline.

    `messages` are without their texts: `content` is missing, or a text part that lacks its `text`; None for a row of
    plain text. `contents` says of what each message's text is joined: texts of the row by their places, and texts that
    reading writes itself. `is_text` is a prompt and its answer as texts, which may be a rendered chat.

    What is written of a row with tools, calls, thoughts or a message in several parts depends on its shape
    (`by_shape`): `messages` and `tools` then hold a `Hole` for each text and object, and `contents` are those of the
    row. An object that the template looks into stands there itself (`open_objects`): a tool as it is, arguments with a
    hole for each text and number.
    """

    messages: tuple[MessageDict, ...] | None
    contents: tuple[tuple[int | str, ...], ...]
    trained_from: int = 0
    is_text: bool = False
    tools: list[Any] | None = None  # holes, or tools
    by_shape: bool = False

    @cached_property
    def kind(self) -> Hashable:
        """What rows share that reading changes in the same way; the order and number of messages is no part of it."""
        if self.by_shape:
            return self
        keys = {(*sorted(message), type(message.get("content"))) for message in self.messages or ()}
        joins = {len(parts) for parts in self.contents}
        return frozenset(keys), frozenset(joins), self._keeps_order, self.trained_from > 0, self.is_text

    @cached_property
    def written_arguments(self) -> tuple[int, ...]:
        """The places of the arguments of calls that are JSON text."""
        functions = [function for message in self.messages or () for function in called_functions(message)]
        found = [function.get("arguments") for function in functions] if self.by_shape else []
        return tuple(one.place for one in found if isinstance(one, Hole) and one.kind is str)

    def quotes(self, texts: Sequence[str], joined: str) -> bool:
        """Return True if arguments that are JSON text may also stand in all texts of their row as a JSON string."""
        return are_quoted([texts[place] for place in self.written_arguments], joined)

    def choose(self, train_on: TrainOn) -> tuple[list[MessageDict], list[int]] | None:
        """Return the messages as a template gets them, and the trained ones; None where none is trained."""
        try:
            return choose_turns(self.messages or (), train_on, self.trained_from)
        except PadfixError:  # the row encoder says why
            return None

    def place(self, texts: list[str]) -> list[str]:
        """Return the texts of the messages, or the plain text, of the texts of a row."""
        if len(texts) == len(self.contents) and self._keeps_order:
            return texts
        return ["".join([texts[one] if type(one) is int else str(one) for one in parts]) for parts in self.contents]

    @cached_property
    def joins(self) -> bool:
        """Whether a text of a message is more than one of the row's texts."""
        return any(len(parts) != 1 or type(parts[0]) is not int for parts in self.contents)

    def order(self, texts: list[_Item]) -> list[_Item]:
        """Return what belongs to the texts of a row, in the order of the messages; as it is where texts are joined."""
        return texts if self.joins else [texts[parts[0]] for parts in self.contents]  # type: ignore[index]  # ints

    @cached_property
    def _keeps_order(self) -> bool:
        return all(parts == (place,) for place, parts in enumerate(self.contents))


def outline(row: object) -> tuple[Outline, list[str]] | None:
    """Return the outline of a row, or of a bare list of messages, and its texts; None for one that has no outline."""
    texts: list[str] = []
    try:
        if not isinstance(row, Mapping):
            return (dict, "messages", _outline_list(row, False, texts)), texts
        made: list[Any] = [dict]
        for name in row:
            value = row[name] if name in READ_COLUMNS else None
            if value is not None and not (type(value) is float and value != value):  # pandas fills in nan
                written = outline_tools(value, texts) if name == "tools" and value else None
                made += (name, _outline(value, name in SPOKEN, texts) if written is None else written)
    except (_OddError, RecursionError):
        return None
    return tuple(made), texts


def _outline(value: object, spoken: bool, texts: list[str]) -> Outline:
    kind = type(value)
    if kind is str:
        if spoken or not value:
            return value
        texts.append(value)  # type: ignore[arg-type]  # a str, as `kind` says
        return str
    if value is None:
        return None
    if kind in _NUMBERS:
        return kind, value
    if kind is dict:
        return _outline_dict(value, texts)  # type: ignore[arg-type]  # a dict, as `kind` says
    return _outline_list(value, spoken, texts)


def _outline_list(value: object, spoken: bool, texts: list[str]) -> Outline:
    if type(value) is not list or (spoken and value):  # tools in whatever form
        raise _OddError
    return (list, *[_outline(item, False, texts) for item in value])


def _outline_dict(value: dict[Any, Any], texts: list[str]) -> Outline:
    made: list[Any] = [dict]
    for key, item in value.items():
        if type(item) is str:  # most are
            if item and key not in SPOKEN:
                texts.append(item)
                made += (key, str)
            else:
                made += (key, item)
        elif key in CALLS and item is not None and not (type(item) is list and not item):
            found = outline_calls(item, texts) if key == "tool_calls" else None
            if found is None:
                raise _OddError
            made += (key, found)
        else:
            made += (key, _outline(item, False, texts))
    return tuple(made)


def rebuild(outlined: Outline, make: Callable[[type], Any]) -> Any:  # of any type
    """Return a value of this outline, with what `make` returns in place of each type that stands for a value."""
    if isinstance(outlined, type):
        return make(outlined)
    if type(outlined) is not tuple:
        return outlined
    kind, *inner = outlined
    if kind is list:
        return [rebuild(item, make) for item in inner]
    if kind is dict:
        return {key: rebuild(item, make) for key, item in zip(inner[::2], inner[1::2], strict=True)}
    return "".join([make(one) if one is str else one for one in inner]) if kind is str else inner[0]


@lru_cache(maxsize=8192)
def read_outline(outlined: Outline) -> Reading | None:
    """Return what reading makes of the rows of an outline; None where that is more than texts in messages."""
    marks = (_MARK % place for place in range(1 << 30))
    try:
        found = read_row(rebuild(outlined, lambda kind: next(marks) if kind is str else {next(marks): 0}))
    except (PadfixError, RecursionError):
        return None
    if found.template_kwargs or found.left_out:
        return None
    if found.text is not None:
        return Reading(None, (_split(found.text),))
    messages = found.messages or []
    is_shaped = _is_parted(outlined) or any(key in message for message in messages for key in _SHAPING)
    if found.tools is None and not is_shaped and not any(map(holds_parts, messages)):
        return _read_messages(found)
    count = next(marks)[1:-1]
    try:
        shells, tools = tuple(_dig(messages)), _dig(found.tools)
    except _OddError:
        return None
    places = tuple((place,) for place in range(int(count)))
    return Reading(shells, places, found.trained_from, found.texts is not None, tools, by_shape=True)


def _is_parted(outlined: Outline) -> bool:
    """Return True if a text is parted at the tags of its thought."""
    return type(outlined) is tuple and (outlined[0] is str or any(map(_is_parted, outlined[1:])))


def _dig(value: object) -> Any:  # of the same type
    """Return a value with holes in place of the marks of texts and objects."""
    if isinstance(value, str):
        if "\ue000" not in value:
            return value
        parts = _MARKS.split(value)
        pieces = tuple(Hole(int(part)) if place % 2 else part for place, part in enumerate(parts) if part)
        return pieces[0] if len(pieces) == 1 else Joined(pieces)
    if isinstance(value, dict):
        key = next(iter(value), None)
        if isinstance(key, str) and _MARKS.fullmatch(key):
            return Hole(int(key[1:-1]), dict)
        return {key: _dig(item) for key, item in value.items()}
    return [_dig(item) for item in value] if isinstance(value, list) else value


def _read_messages(found: Conversation) -> Reading | None:
    shells, contents = list[Any](), []
    for message in found.messages or ():
        shell = dict(message)
        content = shell.pop("content", None)
        if isinstance(content, list):
            text = content[0].pop("text") if len(content) == 1 else None
            content, shell["content"] = text, content
        if not isinstance(content, str):
            return None
        contents.append(_split(content))
        shells.append(shell)
    return Reading(tuple(shells), tuple(contents), found.trained_from, found.texts is not None)


def _split(text: str) -> tuple[int | str, ...]:
    """Return what a text is joined of: the places of its marks, and what stands between them."""
    parts = _MARKS.split(text)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts) if part)


def holds_mark(value: object) -> bool:
    """Return True for a value that stands for any text."""
    return isinstance(value, str) and _MARKS.fullmatch(value) is not None


@lru_cache(maxsize=8192)
def read_plain(column: str, key: str, roles: tuple[str, ...]) -> Reading | None:
    """Return what reading makes of messages that hold a role and a text each; None where it makes more of one."""
    read = [_read_role(column, key, role) for role in roles]
    if None in read or not read:
        return None
    return Reading(tuple({"role": role} for role in read), tuple((place,) for place in range(len(read))))


@lru_cache(maxsize=1024)
def _read_role(column: str, key: str, role: str) -> str | None:
    """Return the role that a message is given, whatever messages stand beside it; None where reading changes more."""
    found = read_outline((dict, column, (list, (dict, key, role, CONTENT_KEYS[key], str))))
    messages = found.messages if found is not None else ()
    return str(messages[0]["role"]) if messages and messages[0].keys() == {"role"} else None
