"""Dataset rows of every common shape, read into the one shape that the encoder takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import TOO_DEEP, PadfixError, describe
from llama_padfix.core.records import record_html, short_repr
from llama_padfix.encoding.reading.json_values import as_list, may_be_filled, seen, strip_nulls
from llama_padfix.encoding.reading.side_columns import (
    ALPACA_COLUMNS,
    PASS_PROCESSOR,
    SIDE_COLUMNS,
    add_system,
    find_media_mark,
    is_medium,
    read_system,
    read_template_kwargs,
    refuse_media,
    refuse_side_columns,
)
from llama_padfix.encoding.reading.tool_calls import (
    find_unparsed,
    read_call_texts,
    read_calls,
    read_tools,
    rename_results,
)

if TYPE_CHECKING:
    from llama_padfix.core.types import MessageDict, Row

ROLES: Mapping[str, str] = MappingProxyType(
    {"system": "system", "developer": "developer"}
    | dict.fromkeys(("user", "human"), "user")
    | dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "function_call"), "assistant")
    | dict.fromkeys(("tool", "observation", "function", "function_response", "ipython"), "tool")
)
"""Every accepted spelling of a role, to the role in chat templates.

The value of a `function_call` turn is JSON text and becomes the message's `tool_calls`.
"""

SHAPES: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "messages": (("messages",),),
        "sharegpt": (("conversations",), ("conversation",)),
        "prompt-completion": (("prompt", "completion"),),
        "alpaca": (("instruction", "output"),),
        "text": (("text",),),
    }
)
"""Every shape to the sets of columns that make it, in order of precedence."""

CONTENT_KEYS: Mapping[str, str] = MappingProxyType({"role": "content", "from": "value"})
"""The key of a message's role to that of its content, in order of precedence."""

CONVERSATION_COLUMNS = tuple(name for names in (*SHAPES["messages"], *SHAPES["sharegpt"]) for name in names)
"""The columns that hold whole conversations, in order of precedence."""

READ_COLUMNS = SIDE_COLUMNS.union(ALPACA_COLUMNS, *chain.from_iterable(SHAPES.values()))
"""Every column that reading looks at."""

# Templates branch on these two themselves (Llama 3.1 on ipython), so role/content messages keep them.
_KEPT_IN_MESSAGES = frozenset({"ipython", "function"})

_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One row in the one shape that the encoder takes: exactly one of `messages` and `text` is set."""

    messages: list[MessageDict] | None
    text: str | None
    tools: list[Any] | None = None  # of what a template takes for tools
    shape: str
    """A key of `SHAPES`."""
    trained_from: int = 0
    """Messages before this index are the prompt of a prompt/completion row, which is never trained; else 0."""
    texts: tuple[str, str] | None = field(default=None, compare=False)
    """Prompt and completion beside `messages`, where both are texts: what a tokenizer without a template encodes."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # a template takes any value
    """Arguments of the chat template for this row alone."""
    left_out: tuple[str, ...] = ()
    """The paths of null keys in arguments and schemas that Arrow may have filled in, and that were left out."""

    __repr__ = short_repr
    _repr_html_ = record_html

    @property
    def needs_template(self) -> bool:
        """Whether the row has turns that only a chat template can write."""
        return self.text is None and (self.texts is None or self.tools is not None)

    @property
    def notes(self) -> dict[str, str]:
        """The fields of `Counts` that count the row for what reading it left out or took for text."""
        notes = {}
        if self.left_out:
            more = len(self.left_out) - 1
            notes["nulls"] = self.left_out[0] + (f", and {more} more" if more else "")
        if mark := find_media_mark(self.messages or []):
            notes["media_marks"] = mark
        if arguments := find_unparsed(self.messages or []):
            notes["unparsed"] = arguments
        return notes


def read_row(row: object, *, row_number: int | str | None = None, shape: str | None = None) -> Conversation:
    """Read a dataset row, or a bare list of messages, of any known shape without changing it.

    Whether the row has a turn to train is not judged.

    Args:
        row: A mapping of columns, or a list of messages.
        row_number: What an error calls the row.
        shape: A key of `SHAPES`. By default it is recognized by the row's columns, in the order of `SHAPES`; null
            columns count as absent.

    Raises:
        PadfixError: The shape is not known, or a role or content is one that no chat template renders faithfully.
    """
    if shape is not None and shape not in SHAPES:
        raise PadfixError(f"shape={shape!r} is not known; pass one of {', '.join(SHAPES)}, or leave it out.")
    try:
        return _read_row(row, shape)
    except (PadfixError, RecursionError) as error:
        error = PadfixError(TOO_DEEP) if isinstance(error, RecursionError) else error
        if row_number is None:
            raise error from None
        raise PadfixError(f"row {row_number}: {error}") from None


def to_messages(row: object) -> list[MessageDict]:
    """Return the messages of a row of any chat shape.

    Raises:
        PadfixError: `read_row` refuses the row, or it holds plain `text`, which has no messages.
    """
    conversation = read_row(row)
    if conversation.messages is None:
        raise PadfixError(
            f"the row holds plain text ({describe(conversation.text)}), which has no turns to tell apart; "
            "use read_row(row).text, or give the row a `messages` column."
        )
    return conversation.messages


def _read_row(row: object, shape: str | None) -> Conversation:
    if isinstance(row, PadfixError):  # a line of a file that could not be read
        raise row
    if not isinstance(row, Mapping):
        if as_list(row) is None:
            raise PadfixError(
                f"expected a mapping of columns or a list of messages, saw {seen(row)}, which has neither "
                'columns nor turns; write it as {"messages": [...]} or {"text": "..."}.'
            )
        row = {"messages": row}
    # pandas fills what a row lacks with nan.
    row = {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
    columns = {name: value for name, value in row.items() if value is not None}
    if not any(name in columns for name in ("completion", *CONVERSATION_COLUMNS, "output", "text")):
        refuse_side_columns(columns, ("prompt",) if "prompt" in columns else ())
    shape, names = _find_shape(row, shape)
    refuse_side_columns(columns, names)
    if shape == "text":
        return Conversation(messages=None, text=_require_str(columns["text"], "text"), shape=shape)
    trained_from, left_out = 0, list[str]()
    # Arrow gives every struct the keys of all others, filled with null, in a call's `arguments` the parameters of
    # every other tool. A filled null is equal to a written one, so they are left out where they can be filled ones:
    # one that stays teaches parameters that the tool does not have. Arguments as JSON text stay to the letter.
    filled = all(may_be_filled(_keys_of(columns[name])) for name in names)
    read = partial(_read_messages, filled=filled, left_out=left_out)
    if shape == "prompt-completion":
        messages = read(columns["prompt"], "prompt", "user")
        trained_from = len(messages)
        messages += read(columns["completion"], "completion", "assistant")
    elif shape == "alpaca":
        messages = _read_alpaca(columns)
    else:
        messages = read(columns[names[0]], names[0])
    if not messages:
        raise PadfixError(
            f"the conversation is empty (no message in {' and '.join(names)}), so there is nothing to "
            "train on; drop the row or give it at least one message."
        )
    count = len(messages)
    messages = add_system(messages, read_system(columns))
    tools = read_tools(columns, filled=filled, dropped=left_out)
    if trained_from:
        trained_from += len(messages) - count
    texts = None
    if all(isinstance(columns.get(name), str) for name in names) and not columns.get("history"):
        texts = "\n\n".join(str(message["content"]) for message in messages[:-1]), str(columns[names[-1]])
    return Conversation(
        messages=messages,
        text=None,
        tools=tools,
        shape=shape,
        trained_from=trained_from,
        template_kwargs=read_template_kwargs(columns),
        left_out=tuple(left_out),
        texts=texts,
    )


def _keys_of(value: object) -> list[object]:
    """Return messages without what they hold but null, so that their keys alone are compared."""
    return [dict.fromkeys(entry) if type(entry) is dict else entry for entry in as_list(value) or ()]


def _find_shape(row: Row, shape: str | None) -> tuple[str, tuple[str, ...]]:
    candidates = SHAPES if shape is None else {shape: SHAPES[shape]}
    for name, alternatives in candidates.items():
        for needed in alternatives:
            if all(row.get(column) is not None for column in needed):
                return name, needed
    seen = ", ".join(f"{name} (null)" if row[name] is None else str(name) for name in row) or "none"
    accepted = [f"{name}: {' or '.join(map(' + '.join, needed))}" for name, needed in candidates.items()]
    raise PadfixError(
        f"the columns are {seen}, which make no {'known shape' if shape is None else f'{shape} row'} "
        f"(accepted: {'; '.join(accepted)}); rename them with dataset.rename_column, or drop the row."
    )


def _read_messages(
    value: object, column: str, role_of_text: str = "", *, filled: bool, left_out: list[str]
) -> list[MessageDict]:
    """Read a list of messages; where `role_of_text` is given, a text is one message of that role."""
    if role_of_text and isinstance(value, str):
        return [{"role": role_of_text, "content": value}]
    entries = as_list(value)
    if entries is None:
        raise PadfixError(
            f"{column} is {seen(value)}, not a list of messages, and text is never guessed to be JSON; "
            "pass a list of mappings (json.loads the text first if it is JSON)."
        )
    messages = [_read_message(entry, f"{column}[{index}]", filled, left_out) for index, entry in enumerate(entries)]
    if any(isinstance(entry, Mapping) and entry.get("function_call") is not None for entry in entries):
        rename_results(messages)
    return messages


def _read_message(entry: object, where: str, filled: bool, left_out: list[str]) -> MessageDict:
    if not isinstance(entry, Mapping):
        raise PadfixError(
            f"{where} is {seen(entry)}, not a message, so it has no role; "
            'write it as {"role": "user", "content": "..."}.'
        )
    # Arrow fills in null keys: `tool_calls` on a user's message.
    message = {key: strip_nulls(item) for key, item in entry.items() if item is not None and key not in _CALLS}
    refuse_media(message, where)
    role_key = next((key for key in CONTENT_KEYS if key in message), None)
    if role_key is None:
        raise PadfixError(
            f"{where} has no role (its keys are {', '.join(map(str, message)) or 'none'}), so no header can "
            "be written for it; give it `role` and `content`, or `from` and `value`."
        )
    content_key = CONTENT_KEYS[role_key]
    spelled, content = message.pop(role_key), message.pop(content_key, None)
    role = _read_role(spelled, role_key, where)
    message = {"role": role, "content": content, **message}
    if spelled.lower() == "function_call":
        # In templates with tools null, not "", marks a turn that only calls.
        return {**message, "content": None, "tool_calls": read_call_texts(content, where)}
    called = {key: entry[key] for key in _CALLS if entry.get(key) is not None}
    calls = read_calls(called, where, filled=filled, dropped=left_out) if called else None
    if calls is not None:
        message["tool_calls"] = calls
    if content is None and role == "assistant" and calls:
        # Some templates test `content is none` to find a call, so a null that is there stays; none is added.
        if content_key not in entry:
            del message["content"]
        return message
    _check_content(content, f"{where} ({role})", content_key)
    return message


def _read_role(spelled: object, key: str, where: str) -> str:
    name = spelled.lower() if isinstance(spelled, str) else ""
    if name not in ROLES:
        raise PadfixError(
            f"{where} has the role {describe(spelled)}, which would go into the header as it is and which "
            f"no model knows; write one of {', '.join(ROLES)}."
        )
    return name if key == "role" and name in _KEPT_IN_MESSAGES else ROLES[name]


def _check_content(content: object, where: str, key: str) -> None:
    if content is None:
        raise PadfixError(
            f"{where} has no {key} (missing or None), which only an assistant message with tool_calls may "
            'lack; give it a string ("" for an empty turn) or drop the row.'
        )
    if isinstance(content, str):
        return
    for part in content if isinstance(content, list) and content else [content]:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            fix = ': pass a string or [{"type": "text", "text": "..."}]'
            fix = f". {PASS_PROCESSOR}" if is_medium(part) else fix
            raise PadfixError(
                f"{where} has {key} that is neither a string nor a list of text parts: {seen(part)}; "
                f"only text can be encoded{fix}."
            )


def _read_alpaca(columns: Row) -> list[MessageDict]:
    messages = []
    history = as_list(columns.get("history", []))
    for index, pair in enumerate([None] if history is None else history):
        turns = as_list(pair) or []
        if len(turns) != 2:
            raise PadfixError(
                f"history is {seen(columns['history'])}, not a list of [user, assistant] pairs, so its "
                "turns have no roles; write it as pairs of strings or drop the column."
            )
        for role, content in zip(("user", "assistant"), turns, strict=True):
            messages.append({"role": role, "content": _require_str(content, f"history[{index}] ({role})")})
    parts = [_require_str(columns.get(name, ""), name) for name in ("instruction", "input")]
    messages.append({"role": "user", "content": "\n\n".join(filter(None, parts))})
    messages.append({"role": "assistant", "content": _require_str(columns["output"], "output")})
    return messages


def _require_str(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise PadfixError(
            f"{name} is {seen(value)}, not a string, and only text can be encoded; make it a string or drop the row."
        )
    return value
