"""Conversations to rendered text in which each trained turn is proven, with notes of what is unusual about it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llama_padfix.chat.losses.thoughts import CLOSERS, find_empty_thoughts, keyed_thoughts
from llama_padfix.chat.messages import called_functions, content_texts
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import require_unicode
from llama_padfix.encoding.loss_selection import choose_turns
from llama_padfix.tokens.control import find_rewritable

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate, Loss, Rendered
    from llama_padfix.core.types import Message, Messages, TokenizerLike, Tool
    from llama_padfix.encoding.settings import EncodeSettings


SPEAK_OF_THOUGHTS = frozenset(CLOSERS)
"""Substrings of which a message with one has no note on the empty thought that the template writes before it."""


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
        if settings.keep_reasoning and (lost := [one for one in rendered.losses if one.kind == "lost_reasoning"]):
            raise PadfixError(
                f"{lost[0].text.partition('. ')[0]}, in spite of keep_reasoning=True, which is proven for thoughts in "
                "another form. Move them from `reasoning_content` into the content (<think>...</think>), or back."
            )
        require_unicode(rendered.text)
        if rendered.spelled and settings.special_tokens == "error":
            raise PadfixError(
                f"a message spells the control token {_name_tokens(rendered, rendered.spelled)}, which "
                "special_tokens='error' forbids. Remove it, or encode it as text: special_tokens='escape'"
            )
        escaped = () if allows_all else _find_escaped(rendered, settings.allowed_tokens)
        notes = collect_row_notes(rendered, messages, trained, escaped, self.template.quiet_kwargs)
        return RenderedChat(rendered, escaped, notes)


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
    quiet_kwargs: Mapping[str, bool],
) -> dict[str, str]:
    """Return the fields of `Counts` that count this row, each with what was seen.

    `trained` are the trained messages, `escaped` those of the spelled control tokens that become text; `quiet_kwargs`
    are those of the template.
    """
    found = _describe_losses(rendered.losses, trained) if rendered.losses else {}
    if rendered.spelled:
        allowed = set(rendered.spelled) - set(escaped)
        found |= {"escaped": _name_tokens(rendered, escaped)} if escaped else {}
        found |= {"allowed": _name_tokens(rendered, allowed)} if allowed else {}
    unstopped = [turn.message for turn in rendered.turns if not turn.stops]
    if unstopped:
        found["unstopped"] = f"message {unstopped[0]}"
    if rendered.generation and not _agrees(rendered):
        found["disagreeing"] = ""
    if empty := find_empty_thoughts(messages, rendered, trained):
        found["empty_reasoning"] = describe_empty(empty[0], quiet_kwargs)
    for index in trained:
        if _is_empty(messages[index]):
            found.setdefault("empty", f"message {index}")
        for function in called_functions(messages[index]):
            arguments = function.get("arguments")
            if isinstance(arguments, str) and arguments.lstrip().startswith("{") and _is_quoted(arguments, rendered):
                found.setdefault("quoted", f"message {index}")
    return found


def describe_empty(message: int, quiet_kwargs: Mapping[str, bool]) -> str:
    """Return the note on an empty thought that is trained in a message."""
    cure = f"; template_kwargs={dict(quiet_kwargs)} puts it into the prompt" if quiet_kwargs else ""
    return f"message {message}{cure}"


def _describe_losses(losses: Sequence[Loss], trained: Collection[int]) -> dict[str, str]:
    """Return the notes on what the template left out: one for each kind, and the sums."""
    found: dict[str, str] = {}
    for kind in dict.fromkeys(loss.kind for loss in losses):
        same = [loss for loss in losses if loss.kind == kind]
        found[kind] = same[0].text.partition(". ")[0] + (f", and {len(same) - 1} more" if same[1:] else "")
    lost = [loss.message for loss in losses if loss.kind == "lost_reasoning" and loss.message in trained]
    return {**found, **({"unreasoned": f"message {lost[0]}"} if lost else {}), "lossy": found.get("lossy", "")}


def _is_empty(message: Message) -> bool:
    """Return True for a message without text, reasoning and calls."""
    has_more = bool(message.get("tool_calls") or keyed_thoughts(message))
    return not has_more and not any(text.strip() for text in content_texts(message.get("content")))


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
