"""Conversations to rendered text in which each trained turn is proven, with notes of what is unusual about it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import require_unicode
from llama_padfix.encoding.loss_selection import choose_turns
from llama_padfix.tokens.control import find_rewritable

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate, Rendered
    from llama_padfix.core.types import Message, Messages, TokenizerLike, Tool
    from llama_padfix.encoding.settings import EncodeSettings

_REASONING = ("reasoning_content", "thinking", "reasoning")  # the names in transformers and templates


@dataclass(frozen=True)
class RenderedChat:
    """A conversation that is rendered and not yet encoded.

    `escaped` are the spans of control tokens and tags that a message spells and that become text, and `notes` the
    fields of `Counts` that count the row.
    """

    rendered: Rendered
    escaped: tuple[tuple[int, int], ...]
    notes: Mapping[str, str]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The spans of text that are trained."""
        return [(turn.start, turn.end) for turn in self.rendered.turns]


@dataclass
class ChatRenderer:
    """Renders conversations with a tokenizer's chat template, which is read once."""

    tokenizer: TokenizerLike
    template_kwargs: Mapping[str, object]

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template. Raises `PadfixError` where it has none."""
        return read_template(self.tokenizer, self.template_kwargs)

    def find_template(self) -> ChatTemplate | None:
        """Return the tokenizer's chat template; None where it has none that can be read."""
        try:
            return self.template
        except PadfixError:
            return None

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The control tokens and tags of the template."""
        return self.template.controls + self.template.tags

    @cached_property
    def _rewritable(self) -> tuple[str, ...]:
        return find_rewritable(self.tokenizer, self.tokens)

    def render(
        self, messages: Messages, tools: Sequence[Tool] | None, trained_from: int, settings: EncodeSettings
    ) -> RenderedChat:
        """Render a conversation, of which messages from `trained_from` on may be trained.

        Raises `PadfixError` for one that has no trained turn, that the template refuses, or that `settings` forbid.
        """
        allows_all = settings.special_tokens == "allow"
        messages, trained = choose_turns(messages, settings.train_on, trained_from)
        rewritable = () if allows_all else self._rewritable
        rendered = render_turns(
            self.template, messages, tools, trained, allow_loss=settings.on_loss == "count", rewritable=rewritable
        )
        require_unicode(rendered.text)
        if rendered.spelled and settings.special_tokens == "error":
            raise PadfixError(
                f"a message spells the control token {_name_tokens(rendered, rendered.spelled)}, which "
                "special_tokens='error' forbids. Remove it, or encode it as text: special_tokens='escape'"
            )
        escaped = () if allows_all else _find_escaped(rendered, settings.allowed_tokens)
        return RenderedChat(rendered, escaped, collect_row_notes(rendered, messages, trained, escaped))


def _find_escaped(rendered: Rendered, allowed: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return the spelled control tokens that are encoded as text: all but the allowed ones inside trained turns."""
    return tuple(
        (start, end)
        for start, end in rendered.spelled
        if rendered.text[start:end] not in allowed
        or not any(turn.start <= start and end <= turn.end for turn in rendered.turns)
    )


def collect_row_notes(
    rendered: Rendered,
    messages: Messages,
    trained: Collection[int],
    escaped: Collection[tuple[int, int]],
) -> dict[str, str]:
    """Return the fields of `Counts` that count this row, each with what was seen.

    `trained` are the trained messages, `escaped` those of the spelled control tokens that become text.
    """
    found: dict[str, str] = {}
    if rendered.losses:
        more = len(rendered.losses) - 1
        found["lossy"] = rendered.losses[0].partition(". ")[0] + (f", and {more} more" if more else "")
    if rendered.spelled:
        allowed = set(rendered.spelled) - set(escaped)
        found |= {"escaped": _name_tokens(rendered, escaped)} if escaped else {}
        found |= {"allowed": _name_tokens(rendered, allowed)} if allowed else {}
    unstopped = [turn.message for turn in rendered.turns if not turn.stops]
    if unstopped:
        found["unstopped"] = f"message {unstopped[0]}"
    if rendered.generation and not _agrees(rendered):
        found["disagreeing"] = ""
    for index in trained:
        message = messages[index]
        if _is_empty(message):
            found.setdefault("empty", f"message {index}")
        thoughts = [message[name] for name in _REASONING if isinstance(message.get(name), str)]
        if any(thought.strip() and thought.strip() not in rendered.text for thought in thoughts):
            found.setdefault("unreasoned", f"message {index}")
        for call in message.get("tool_calls") or ():
            function = call.get("function", call) if isinstance(call, Mapping) else {}
            arguments = function.get("arguments") if isinstance(function, Mapping) else None
            if isinstance(arguments, str) and arguments.lstrip().startswith("{") and _is_quoted(arguments, rendered):
                found.setdefault("quoted", f"message {index}")
    return found


def _is_empty(message: Message) -> bool:
    """Return True for a message without text, reasoning and calls."""
    content = message.get("content") or ""
    texts = [part["text"] for part in content] if isinstance(content, list) else [content]
    texts += [message[name] for name in _REASONING if isinstance(message.get(name), str)]
    return not message.get("tool_calls") and not any(text.strip() for text in texts)


def _name_tokens(rendered: Rendered, spelled: Collection[tuple[int, int]]) -> str:
    """Return the tokens that stand at these places, each once."""
    return ", ".join(sorted({repr(rendered.text[start:end]) for start, end in spelled}))


def _is_quoted(arguments: str, rendered: Rendered) -> bool:
    """Return True if JSON text was written as a JSON string."""
    return any(json.dumps(arguments, ensure_ascii=ascii) in rendered.text for ascii in (False, True))


def _agrees(rendered: Rendered) -> bool:
    """Return True if `{% generation %}` marks what is trained; spans outside of the trained turns are not compared."""
    marked = tuple(
        (start, end)
        for start, end in rendered.generation
        if any(turn.start < end and start < turn.end for turn in rendered.turns)
    )
    return replace(rendered, generation=marked or rendered.generation).agrees
