"""A chat as text: by jinja2 as transformers sets it up, with the quirks of an engine."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jinja2

from llama_padfix.chat.traced_render import REASONING_KEYS
from llama_padfix.serving.rendering.chat import Chat, Quirk, RenderRefusedError, RenderStoppedError
from llama_padfix.serving.rendering.environment import BoundedEnvironment, LimitExceededError

if TYPE_CHECKING:
    from llama_padfix.core.types import Message


def render_chat(chat: Chat, quirks: Sequence[Quirk] = ()) -> str:
    """Return the text of a chat as transformers renders it, changed by quirks in their order.

    Args:
        chat: What is rendered; its `source` is compiled once.
        quirks: The engine's; none for what transformers of today renders.

    Raises:
        RenderRefusedError: the template raises, or does more than a chat template needs.
    """
    chat, quirks = apply_to_chat(chat, quirks)
    try:
        environment, template = _compile(chat.source, tuple(one for one in quirks if one.on_environment is not None))
        environment.begin()
        text = str(template.render(context_of(chat)))
    except LimitExceededError as error:
        raise RenderStoppedError(f"The chat template was stopped: {error}.") from None
    except RecursionError:
        raise RenderStoppedError("The chat template was stopped: it calls itself too deeply.") from None
    except jinja2.TemplateSyntaxError as error:
        raise RenderRefusedError(f"line {error.lineno}: {error.message}") from None
    except MemoryError:
        raise RenderStoppedError("The chat template was stopped: it needs too much memory.") from None
    except Exception as error:  # a template is a program of its author: it may raise anything
        raise RenderRefusedError(f"{type(error).__name__}: {error}") from None
    for quirk in quirks:
        if quirk.on_text is not None:
            text = quirk.on_text(text)
    return text


def apply_to_chat(chat: Chat, quirks: Sequence[Quirk]) -> tuple[Chat, tuple[Quirk, ...]]:
    """Return a chat as quirks change it before it is rendered, and those quirks that may change its text."""
    acting = []
    for quirk in quirks:
        changed = quirk.on_chat(chat) if quirk.on_chat is not None else chat
        in_template = quirk.on_environment is not None and quirk.reads in chat.source
        if changed is not chat or in_template or quirk.on_text is not None:
            acting.append(quirk)
        chat = changed
    return chat, tuple(acting)


# `Any`: a jinja2.Template, which is untyped in what it renders.
@lru_cache(maxsize=128)
def _compile(source: str, quirks: tuple[Quirk, ...]) -> tuple[BoundedEnvironment, Any]:
    environment = _make_environment(quirks)
    return environment, environment.compile_chat(source)


@lru_cache(maxsize=64)
def _make_environment(quirks: tuple[Quirk, ...]) -> BoundedEnvironment:
    environment = BoundedEnvironment()
    for quirk in quirks:
        if quirk.on_environment is not None:
            quirk.on_environment(environment)
    return environment


def context_of(chat: Chat) -> dict[str, object]:
    """Return what the template reads: messages as transformers gives them, tools, tokens, the clock, arguments."""
    now = datetime.datetime.now()
    moment = now if chat.day is None else datetime.datetime.combine(chat.day, now.time())
    return {
        "strftime_now": moment.strftime,
        "documents": None,
        **chat.tokens,
        **{key: value for key, value in chat.kwargs.items() if key != "chat_template"},
        "messages": _give_messages(chat),
        "tools": list(chat.tools) if chat.tools is not None else None,
        "add_generation_prompt": chat.add_generation_prompt,
    }


def _give_messages(chat: Chat) -> list[Message]:
    """Return the messages as `apply_chat_template` gives them to a template."""
    given: list[Message] = []
    for message in chat.messages:
        kept = {key: value for key, value in message.items() if value is not None or not chat.drops_nulls}
        thought = next((kept[key] for key in REASONING_KEYS if kept.get(key) is not None), None)
        if chat.aliases_thoughts and thought is not None:
            kept = {"thinking": thought, **kept, "reasoning_content": thought}
        given.append(kept)
    return given
