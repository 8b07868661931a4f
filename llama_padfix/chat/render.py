"""A conversation rendered by its chat template, the records of that, and the errors of what cannot be proven."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.profile.template_profile import TemplateProfile
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import printable
from llama_padfix.tokens.calls import apply_template

if TYPE_CHECKING:
    from llama_padfix.core.types import Messages, TokenizerLike, Tool


class Refusal(Enum):
    """Why it cannot be proven where a turn begins and ends."""

    UNPROBED = "probes do not show how the template writes a turn"
    UNTRACED = "the template cannot be followed"
    REWRITTEN = "the template rewrites its text in a way that cannot be followed"
    FOREIGN = "it would hold text that its message does not hold"
    TWICE = "its text is written in two places"
    SILENT = "the template writes none of its text"
    STOPPED = "another turn ends in front of its text"
    FIRST = "it is the first message, so there is no prompt to render before it"
    HEADLESS = "no header of the model stands before it, and the conversation up to it renders differently on its own"
    UNCLOSED = "the template leaves the message out when nothing follows, so that nothing shows what closes it"
    LOST = "the template makes the text behind it of several texts, so that its origin is lost"
    OVERLAP = "it overlaps the turn before it"


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template with what was learned about it."""

    tokenizer: TokenizerLike = field(repr=False)
    profile: TemplateProfile
    controls: tuple[str, ...] = field(repr=False)
    """The contents of the special tokens, which encoding cuts out of a text wherever they stand."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # a template takes any value
    """The arguments of every rendering."""
    continues: bool | str = False
    """The `continue_final_message` of `apply_chat_template`: the last message is left open, for the model to go on."""
    tags: tuple[str, ...] = field(default=(), repr=False)
    """Those of ordinary added tokens that steer the model (`<tool_call>`), which only an assistant may write."""
    quiet_kwargs: Mapping[str, bool] = field(default_factory=dict)
    """The argument that moves an empty thought into the generation prompt, if the template has one."""
    source: str = field(default="", repr=False)
    """Its sources, without and with tools."""


@dataclass(frozen=True)
class Turn:
    """What the model produces without a break: characters `start` to `end` of the text, stop token included.

    `message` is the index of the message, which has several turns where a tool's answer stands inside it. `stops` is
    False where the template ends the turn without a stop token.
    """

    message: int
    start: int
    end: int
    stops: bool


@dataclass(frozen=True)
class Loss:
    """What the template left out: the field of `Counts` that counts it, and a sentence with the cure behind it.

    `message` is the index of the message; None for what is no message's, a tool's schema.
    """

    kind: str
    message: int | None
    text: str


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with its assistant turns in order."""

    text: str
    turns: tuple[Turn, ...]
    spelled: tuple[tuple[int, int], ...] = ()
    """(start, end) of every control token that a message only spells, and that must be encoded as text."""
    generation: tuple[tuple[int, int], ...] = ()
    """The spans that the template itself marks with `{% generation %}`, if it does."""
    losses: tuple[Loss, ...] = ()
    """What the template left out."""
    content_spans: tuple[tuple[int, int, int], ...] | None = field(default=None, repr=False)
    """(start, end, origin) of each text that the template did not write (see `Trace`); None where that is unknown."""
    is_whole: bool = False
    """Whether it is proven already that nothing is left out."""

    @property
    def agrees(self) -> bool:
        """Whether what the template marks with `{% generation %}`, if anything, is what is trained, but for space."""
        if not self.generation:
            return True
        marked = [False] * len(self.text)
        for start, end in self.generation:
            marked[start:end] = [True] * (end - start)
        trained = [False] * len(self.text)
        for turn in self.turns:
            trained[turn.start : turn.end] = [True] * (turn.end - turn.start)
        pairs = zip(self.text, marked, trained, strict=True)
        return all(one == two or char.isspace() for char, one, two in pairs)


@dataclass(frozen=True)
class RenderRequest:
    """A rendered conversation whose turns are looked for."""

    template: ChatTemplate
    messages: Messages
    tools: Sequence[Tool] | None
    assistant_indices: Sequence[int]
    """All messages of the assistant."""
    trained_indices: Collection[int]
    """Those whose turns are looked for."""
    text: str
    """What the tokenizer renders."""
    rewritten: Sequence[tuple[int, int, str]] = ()
    """(start, end, token) of text that a normalizer makes a control token."""


def refuse(index: int, refusal: Refusal, text: str = "", place: int | None = None) -> PadfixError:
    """Return the error for a turn that cannot be proven, with the place in the rendered text that shows it."""
    return PadfixError(
        f"Where the assistant turn of message {index} begins and ends cannot be proven: {refusal.value}. "
        "Train on the last turn only, or split the conversation there."
        + ("" if place is None else f"\n{draw_place(text, place)}")
    )


_COLUMNS = 96  # of a picture, without its indent


def draw_place(text: str, place: int) -> str:
    """Return one line of a text around a place, printable, and a line with a caret under the place.

    A character that cannot be printed is written as its escape; a wide one (Chinese, emoji) takes two columns.
    """
    before, after = _fit(text[max(place - _COLUMNS, 0) : place][::-1]), _fit(text[place : place + _COLUMNS])
    left = ("..." if len(before) < place else "") + "".join(reversed(before))
    right = "".join(after) + ("..." if place + len(after) < len(text) else "")
    return f"  {left}{right}\n  {' ' * _width(left)}^"


def _fit(text: str) -> list[str]:
    """Return the characters of a text, each in a form that can be printed, as many as half a picture holds."""
    fitting: list[str] = []
    room = _COLUMNS // 2 - len("...")
    for char in text:
        fitting.append(printable(char))
        room -= _width(fitting[-1])
        if room < 0:
            return fitting[:-1]
    return fitting


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def render_text(
    template: ChatTemplate,
    messages: Messages,
    tools: Sequence[Tool] | None,
    add_generation_prompt: bool = False,
    *,
    continues: bool | str = False,
) -> str:
    """Return the text that the tokenizer renders; what the template raises becomes a `PadfixError`."""
    kwargs = {**template.kwargs, "continue_final_message": continues} if continues else template.kwargs
    try:
        return apply_template(
            template.tokenizer,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            template_kwargs=kwargs,
        )
    except PadfixError:
        raise
    except Exception as error:  # a template is a program of its author: it may raise anything
        raise PadfixError(
            f"The chat template refuses the conversation: {type(error).__name__}: {error}. "
            "Change the conversation to what the template accepts, or drop the row: on_error='drop'"
        ) from error
