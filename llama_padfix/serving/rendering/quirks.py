"""Quirks that several engines share."""

from __future__ import annotations

from dataclasses import replace

from llama_padfix.chat.dates import find_date
from llama_padfix.serving.rendering.chat import Chat, Quirk


def _drop_date(chat: Chat) -> Chat:
    """Leave the date that was pinned for the training away: a request does not repeat it."""
    if find_date(chat.kwargs) is None:
        return chat
    dropped = {"date_string"} | ({"chat_template"} if find_date({**chat.kwargs, "date_string": None}) else set())
    return replace(chat, kwargs={key: value for key, value in chat.kwargs.items() if key not in dropped})


def _drop_arguments(chat: Chat) -> Chat:
    """Leave the template's other arguments away: a request names none."""
    return replace(chat, kwargs={}) if chat.kwargs else chat


UNPINNED_DATE = Quirk("date", _drop_date)
"""The clock shows the day of serving; first of an engine's quirks."""

NO_ARGUMENTS = Quirk("arguments", _drop_arguments)
"""The arguments of the training are not passed; after `UNPINNED_DATE`."""

NO_ALIAS = Quirk("thought key", lambda chat: replace(chat, aliases_thoughts=False))
"""A thought stands under the name that the row gives it, and no other."""

KEEPS_NULLS = Quirk("null key", lambda chat: replace(chat, drops_nulls=False))
"""Null keys of a message reach the template."""
