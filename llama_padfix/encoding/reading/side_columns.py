"""Columns beside the conversation that change what it means: read, refused, or named as not read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.messages import content_texts
from llama_padfix.chat.traced_render import REASONING_KEYS
from llama_padfix.core.arrow import from_texts
from llama_padfix.core.errors import PadfixError, describe
from llama_padfix.encoding.loss_selection import TRAINING_KEYS
from llama_padfix.encoding.reading.json_values import as_list, parse_if_json, seen, strip_nulls

if TYPE_CHECKING:
    import pyarrow as pa

    from llama_padfix.core.types import MessageDict, Row

SYSTEM = ("system", "system_prompt")
"""The columns that hold the system turn."""

TOOLS = ("tools", "functions")
"""The columns that hold the tools; `functions` is OpenAI's older name."""

MEDIA = ("image", "images", "video", "videos", "audio", "audios")
MEDIA_MARKS = ("<image>", "<video>", "<audio>")
"""What stands in a text for an image, a video or a sound that is read with it."""
PASS_PROCESSOR = (
    "The model's processor reads it: pass that in the tokenizer's place, as in prepare(processor, model) or "
    "diagnose(processor, dataset=rows)"
)

_PAIR = ("chosen", "rejected")
_VERDICTS = ("label", "kto_tag")  # of KTO rows: in TRL and ms-swift, and in LLaMA-Factory

TEMPLATE_KWARGS = "chat_template_kwargs"
"""The column with arguments of the chat template for a row of its own, as TRL reads it."""

# What the call that renders a row takes, and not its template.
_RENDERING = ("conversation", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize")
_ENCODING = ("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask")
_OF_THE_CALL = frozenset((*_RENDERING, *_ENCODING, "tokenizer_kwargs"))

SIDE_COLUMNS = frozenset((*SYSTEM, *TOOLS, *MEDIA, *_PAIR, *_VERDICTS, TEMPLATE_KWARGS))
"""A row in which one of these is not null is no plain conversation."""

_OF_LOSS = (*TRAINING_KEYS, "train_detail", "training_detail")  # of which some are refused
_OF_MESSAGES = ("role", "content", "from", "value", "tool_calls", "function_call", "tool_call_id", *REASONING_KEYS)
_MESSAGE_KEYS = frozenset((*_OF_MESSAGES, *_OF_LOSS, *MEDIA))
_SAMPLE = 64  # rows whose keys are looked at: to look at all takes a tenth of the time of encoding them
_ANSWERS_OF_TOOLS = ("tool", "function", "ipython", "observation")

ALPACA_COLUMNS = ("input", "history")
"""The columns that are read beside those that make the shape `alpaca`."""


def has_side_columns(row: Row) -> bool:
    """Return True for a row in which one of `SIDE_COLUMNS` is not null."""
    return not SIDE_COLUMNS.isdisjoint(row) and any(row.get(name) is not None for name in SIDE_COLUMNS)


def refuse_side_columns(columns: Row, conversation: Sequence[str]) -> None:
    """Raise `PadfixError` for a row whose columns say that its text is not what to train on, or not all of it.

    Args:
        columns: The columns that are not null.
        conversation: The columns that are trained; none where they are not known.
    """
    if SIDE_COLUMNS.isdisjoint(columns):
        return
    pair = [name for name in _PAIR if name in columns and _is_answer(columns[name])]
    if pair:
        _refuse_pair(pair, conversation, isinstance(columns[pair[0]], str))
    for name in _VERDICTS if "text" not in conversation else ():
        value = columns.get(name, True)
        value = value.tolist() if hasattr(value, "tolist") else value  # a number of numpy
        if isinstance(value, bool | int | float) and value == 0:
            raise PadfixError(
                f"{name} is {describe(value)}, which marks an answer that is not to be learned (KTO), and supervised "
                f'training would teach it; keep the others: dataset.filter(lambda row: row["{name}"]). A column that '
                f'means something else can go: dataset.remove_columns("{name}")'
            )
    refuse_media(columns, "the row")


def refuse_media(holder: Row, where: str) -> None:
    """Raise `PadfixError` where a row or a message holds an image, a video or a sound."""
    for name in MEDIA:
        value = holder.get(name)
        if not _is_blank(value) and as_list(value) != []:
            raise PadfixError(
                f"{where} has {name} = {describe(value)}, and only text can be encoded: the answer would be trained "
                f"without what it is about. {PASS_PROCESSOR}; or drop such rows: "
                f'dataset.filter(lambda row: not row["{name}"])'
            )


def is_medium(part: object) -> bool:
    """Return True for a part of a message that is an image, a video or a sound."""
    if not isinstance(part, Mapping):
        return False
    kind = str(part.get("type") or next((name for name in MEDIA if part.get(name) is not None), ""))
    return kind.removeprefix("input_").removesuffix("_url") in MEDIA


def find_media_mark(messages: Sequence[MessageDict]) -> str:
    """Return which of `MEDIA_MARKS` stands in a text that is not the assistant's, and where; "" for none."""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            texts = content_texts(message.get("content"))
            for mark in MEDIA_MARKS:
                if any(mark in text for text in texts):
                    return f"{mark} in message {index}"
    return ""


def _is_answer(value: object) -> bool:
    return isinstance(value, str | Mapping) or as_list(value) is not None


def _refuse_pair(pair: Sequence[str], conversation: Sequence[str], is_text: bool) -> None:
    names = " and ".join(pair)
    if conversation and conversation != ("prompt",):
        fix = (
            f"if {' + '.join(conversation)} is what to train on: dataset.remove_columns({list(pair)}); if it is the "
            "prompt of the pair, append the chosen answer to it first"
        )
    elif conversation:
        fix = 'train on the chosen answers: dataset.rename_column("chosen", "completion").remove_columns("rejected")'
    else:
        column = "text" if is_text else "messages"
        fix = f'train on the chosen ones: dataset.rename_column("chosen", "{column}").remove_columns("rejected")'
    raise PadfixError(
        f"the row has {names}, the answers of a preference pair (DPO); supervised training learns one answer: {fix}. "
        "To train on pairs (DPOTrainer, ORPOTrainer, RewardTrainer): prepare(tokenizer, model, task='dpo')"
    )


def read_template_kwargs(columns: Row) -> dict[str, Any]:  # a template takes any value
    """Return the arguments of the chat template that a row has for itself; null ones are left out."""
    value = parse_if_json(columns.get(TEMPLATE_KWARGS))
    if _is_blank(value):
        return {}
    if not isinstance(value, Mapping):
        raise PadfixError(
            f"{TEMPLATE_KWARGS} is {seen(value)}, not a mapping of the chat template's arguments; write it as "
            '{"enable_thinking": False}, or leave it out.'
        )
    found: dict[str, Any] = strip_nulls(value)
    if taken := sorted(_OF_THE_CALL.intersection(found)):
        raise PadfixError(
            f"{TEMPLATE_KWARGS} has {taken[0]}, which is no argument of the template itself, and differs for no row; "
            f"take it out, and pass it for all rows: ChatEncoder(tokenizer, template_kwargs={{{taken[0]!r}: ...}})"
        )
    return found


def read_system(columns: Row) -> str:
    """Return the system turn that the columns of a row hold; "" for none."""
    found = {name: columns[name] for name in SYSTEM if name in columns and not _is_blank(columns[name])}
    for name, value in found.items():
        if not isinstance(value, str):
            raise PadfixError(
                f"{name} is {seen(value)}, not a string, and it is read as the system turn; make it a string, or "
                f'rename what is none: dataset.rename_column("{name}", "{name}_info")'
            )
    if len({*found.values()}) > 1:
        raise PadfixError(
            f"system ({describe(found['system'])}) and system_prompt ({describe(found['system_prompt'])}) are two "
            'different system turns; drop one of the two: dataset.remove_columns("system_prompt")'
        )
    return str(next(iter(found.values()), ""))


def add_system(messages: list[MessageDict], system: str) -> list[MessageDict]:
    """Return the messages with the system turn of a column in front, unless it is there."""
    first = messages[0]
    if first["role"] != "system" and system:
        return [{"role": "system", "content": system}, *messages]
    if system and first["content"] != system:
        raise PadfixError(
            f"the system column ({describe(system)}) and the first message ({describe(first['content'])}) "
            "are two different system turns, and none of them is known to be the right one; drop one of the two."
        )
    return messages


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value)


def find_unread(rows: Iterable[object], shapes: Mapping[str, tuple[tuple[str, ...], ...]]) -> tuple[str, ...]:
    """Return the columns of rows that have a value and are not read, in the order in which they are met."""
    found: dict[str, None] = {}
    for row in rows:
        if isinstance(row, Mapping) and len(row) > 1:
            shape, read = next(
                ((s, c) for s, sets in shapes.items() for c in sets if all(row.get(name) is not None for name in c)),
                ("", tuple(row)),
            )
            for name, value in row.items():
                missing = value is None or (isinstance(value, float) and value != value)  # nan is what pandas fills in
                if not (missing or name in read or name in found or _is_read(name, value, shape)):
                    found[str(name)] = None
    return tuple(found)


def find_unread_keys(rows: Sequence[object], columns: Sequence[str], source: str) -> tuple[str, ...]:
    """Return the keys of messages that have a value and that nothing reads, as `messages[].note`.

    Those of a tool's answer are not looked at.

    Args:
        rows: Rows, or bare lists of messages; of many, some are looked at.
        columns: The columns that hold messages, in order of precedence.
        source: The source of the chat template, which reads the keys that it names.
    """
    found: dict[str, None] = {}
    known = set(_MESSAGE_KEYS)
    for row in rows[:: max(len(rows) // _SAMPLE, 1)]:
        name, messages = columns[0], row
        if isinstance(row, Mapping):
            name = next((one for one in columns if row.get(one) is not None), name)
            messages = row.get(name)
        for message in messages if isinstance(messages, list) else ():
            if type(message) is dict and len(message) > 2 and not message.keys() <= known:
                for key in message.keys() - known:
                    if _is_blank(message[key]) or message.get("role", message.get("from")) in _ANSWERS_OF_TOOLS:
                        continue
                    known.add(key)
                    if not _names(source, key):
                        found[f"{name}[].{key}"] = None
    return tuple(found)


def find_unread_fields(table: pa.Table, columns: Sequence[str], source: str) -> tuple[str, ...]:
    """Return what `find_unread_keys` does, for the rows of a table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    name = next((one for one in columns if one in table.column_names), columns[0])
    places = table.schema.get_all_field_indices(name)
    if not places:
        return ()
    column = table.column(places[-1])  # of several columns of a name a row has the last one
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return ()
    keys = [field.name for field in kind.value_type]
    unread = [key for key in keys if key not in _MESSAGE_KEYS and not _names(source, key)]
    if not unread:
        return ()
    messages = pc.list_flatten(column)
    role = next((key for key in ("role", "from") if key in keys), None)
    valid = {key: pc.is_valid(pc.struct_field(messages, [keys.index(key)])) for key in unread}
    if role is not None:  # no message is copied
        of_tools = pc.is_in(pc.struct_field(messages, [keys.index(role)]), from_texts(_ANSWERS_OF_TOOLS))
        valid = {key: pc.and_not(flags, of_tools) for key, flags in valid.items()}
    return tuple(f"{name}[].{key}" for key, flags in valid.items() if pc.any(flags).as_py())


def _names(source: str, key: object) -> bool:
    return re.search(rf"\b{re.escape(str(key))}\b", source) is not None


def _is_read(name: str, value: object, shape: str) -> bool:
    if name in _PAIR or name in MEDIA:
        return isinstance(value, str | list) and not value
    if shape == "text" or name not in SIDE_COLUMNS:
        return shape == "alpaca" and name in ALPACA_COLUMNS
    return name not in _VERDICTS or isinstance(value, bool)


def find_unread_columns(
    table: pa.Table, shapes: Mapping[str, tuple[tuple[str, ...], ...]], carry: Sequence[str]
) -> tuple[str, ...]:
    """Return what `find_unread` does for the rows of a table, by the first value of each column.

    The columns to `carry` go along. Where the rows are of several shapes, no column of a shape is returned.
    """
    names = table.column_names
    if len(names) < 2 or len({*names}) < len(names):
        return ()
    makes_shape = {name for sets in shapes.values() for columns in sets for name in columns}
    row = {}
    for name in names:
        column = table[name]
        if name not in carry and column.null_count < len(column):
            row[name] = next(value for value in column if value.is_valid).as_py()
    mixed = any(table[name].null_count for name in makes_shape.intersection(row))
    return tuple(name for name in find_unread([row], shapes) if not (mixed and name in makes_shape))
