"""What an engine renders, and one way in which it renders it otherwise than transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datetime

    import jinja2

    from llama_padfix.core.types import Message, Tool


class RenderRefusedError(Exception):
    """An engine gives no text for a chat; the message is the engine's own."""


class RenderStoppedError(RenderRefusedError):
    """A template did more than any chat template needs."""


@dataclass(frozen=True)
class Chat:
    """A conversation up to a generation point, as it is given to an engine."""

    messages: Sequence[Message]
    """The messages before the point."""

    tools: Sequence[Tool] | None = None
    """The tools that the template writes."""

    kwargs: Mapping[str, Any] = field(default_factory=dict)  # a template takes any value
    """The arguments of the template with which the rows were trained, a pinned date among them."""

    source: str = ""
    """The chat template, in Jinja."""

    tokens: Mapping[str, str] = field(default_factory=dict)
    """What the template gets beside: `bos_token`, `eos_token` and the like."""

    day: datetime.date | None = None
    """The day that the clock of the template shows; None for today."""

    add_generation_prompt: bool = True
    """Whether the prompt of the answer is written behind the messages."""

    aliases_thoughts: bool = True
    """Whether a thought stands under each of its names, as transformers 5.21 and newer gives it to a template."""

    drops_nulls: bool = True
    """Whether null keys of a message are left out, as transformers 5 leaves them out."""


@dataclass(frozen=True)
class Quirk:
    """One way in which an engine renders otherwise than transformers, with the name of the cause.

    An engine's rendering is jinja2 as transformers sets it up with the engine's quirks in their order. So the quirks
    whose addition changes a text are the causes of the difference. Compared by `cause` and functions; keep one object
    a quirk, at the top level of a module.
    """

    cause: str
    """A key of `serving.causes.CAUSES`."""

    on_chat: Callable[[Chat], Chat] | None = None
    """Changes what is rendered: a copy, or the same object where there is nothing to change."""

    on_environment: Callable[[jinja2.Environment], None] | None = None
    """Changes filters, tests, globals or settings of a new environment."""

    reads: str = ""
    """With `on_environment`: a text without which in the template the quirk changes nothing, such as "tojson"."""

    on_text: Callable[[str], str] | None = None
    """Changes the rendered text."""
