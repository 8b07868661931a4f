"""A conversation rendered by its chat template, and the records of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_padfix.chat.template_profile import TemplateFacts
from llama_padfix.chat.trace import Structure
from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.calls import apply_template

__all__ = ["ChatTemplate", "Rendered", "Turn", "refuse", "render_text"]


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template with what was learned about it; `kwargs` go to every rendering.

    `controls` are the contents of the special tokens, which encoding cuts out of a text wherever they stand; `tags`
    those of ordinary added tokens that steer the model (`<tool_call>`), which only an assistant may say.
    """

    tokenizer: Any = field(repr=False)
    facts: TemplateFacts
    controls: tuple[str, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    structure: Structure | None = field(default=None, repr=False)
    tags: tuple[str, ...] = field(default=(), repr=False)


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
class Rendered:
    """A conversation as text, with its assistant turns in order.

    `spelled` holds (start, end) of every control token that is only spelled in the text of a message and must be
    encoded as text. `generation` are the spans that the template itself marks with `{% generation %}`, if it does.
    `losses` say what the template left out. `written` are the messages of which it wrote text, where that is known.
    """

    text: str
    turns: tuple[Turn, ...]
    spelled: tuple[tuple[int, int], ...] = ()
    generation: tuple[tuple[int, int], ...] = ()
    losses: tuple[str, ...] = ()
    written: frozenset[int] | None = field(default=None, repr=False)

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


def refuse(index: int, reason: str) -> PadfixError:
    """Return the error that says why a turn cannot be proven."""
    return PadfixError(
        f"Where the assistant turn of message {index} begins and ends cannot be proven: {reason}. "
        "Train on the last turn only, or split the conversation there."
    )


def render_text(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    add_generation_prompt: bool = False,
) -> str:
    """Return the text that the tokenizer renders; what the template raises becomes a `PadfixError`."""
    try:
        return apply_template(
            template.tokenizer,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            template_kwargs=template.kwargs,
        )
    except PadfixError:
        raise
    except Exception as error:  # a template is somebody else's program: it may raise anything
        raise PadfixError(
            f"The chat template refuses the conversation: {type(error).__name__}: {error}. "
            "Change the conversation to what the template accepts, or drop the row: on_error='drop'"
        ) from error
