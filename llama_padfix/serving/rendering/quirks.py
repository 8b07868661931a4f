"""Quirks that several engines share."""

from __future__ import annotations

from dataclasses import replace

from llama_padfix.chat.dates import find_date
from llama_padfix.chat.traced_render import REASONING_KEYS
from llama_padfix.serving.rendering.chat import Chat, Quirk

_CLOCK_END = "{% endmacro %}\n"  # of the line in front of a template whose clock is pinned


def _drop_date(chat: Chat) -> Chat:
    """Leave the date that was pinned for the training away: a request does not repeat it."""
    if find_date(chat.kwargs) is None:
        return chat
    dropped, source = {"date_string"}, chat.source
    if find_date({"chat_template": chat.kwargs.get("chat_template")}) is not None:
        dropped.add("chat_template")
        source = source.partition(_CLOCK_END)[2]
    kept = {key: value for key, value in chat.kwargs.items() if key not in dropped}
    return replace(chat, kwargs=kept, source=source)


def _drop_arguments(chat: Chat) -> Chat:
    """Leave the template's other arguments away: a request names none."""
    return replace(chat, kwargs={}) if chat.kwargs else chat


def _keep_names(chat: Chat) -> Chat:
    has_thoughts = any(key in message for message in chat.messages for key in REASONING_KEYS)
    return replace(chat, aliases_thoughts=False) if has_thoughts else chat


def _keep_nulls(chat: Chat) -> Chat:
    has_nulls = any(value is None for message in chat.messages for value in message.values())
    return replace(chat, drops_nulls=False) if has_nulls else chat


UNPINNED_DATE = Quirk("date", _drop_date)
"""The clock shows the day of serving; first of an engine's quirks."""

NO_ARGUMENTS = Quirk("arguments", _drop_arguments)
"""The arguments of the training are not passed; after `UNPINNED_DATE`."""

NO_ALIAS = Quirk("thought key", _keep_names)
"""A thought stands under the name that the row gives it, and no other."""

KEEPS_NULLS = Quirk("null key", _keep_nulls)
"""Null keys of a message reach the template."""
