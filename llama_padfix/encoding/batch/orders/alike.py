"""Whether a template renders messages with more keys, or with text parts, as it renders those of roles and texts.

The template runs on symbolic texts with both. Where the two runs write the same, whatever the texts are, what is known
of the plain conversation holds for the other one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.symbolic import make_unseen_text, render_symbolic
from llama_padfix.chat.symbolic_slots import TemplateBranched
from llama_padfix.chat.traced_render import REASONING_KEYS, source_of
from llama_padfix.chat.turns import finds_by_prompt
from llama_padfix.core.compat import gives_clock
from llama_padfix.encoding.batch.literals import Literals
from llama_padfix.encoding.batch.outlines import holds_mark
from llama_padfix.encoding.batch.render_plan import PROBES, RenderPlan, find_headers, join

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate
    from llama_padfix.core.types import Messages

    _Raised = tuple[type[Exception], str]

_PLAIN = {"role"}
_PROBED = 2  # orders of the same messages for which probes confirm the turns behind a constant prompt


def are_plain(shells: Messages) -> bool:
    """Return True for messages that are roles and texts alone; see `Reading`."""
    return all(shell.keys() == _PLAIN for shell in shells)


@dataclass
class Likeness:
    """What is known of a template's conversations with more than roles and texts."""

    template: ChatTemplate
    known: dict[tuple[str, ...], bool] = field(default_factory=dict)
    """By the beginning of a conversation, whether it is written as that of its roles; many begin alike."""
    seen: dict[frozenset[str], int] = field(default_factory=dict)
    """How many orders were seen of each set of messages that are found by a constant prompt."""

    def holds(self, shells: Messages, plan: RenderPlan) -> bool:
        """Return True if these messages are rendered, and their turns found, as those of their roles and texts alone.

        Args:
            shells: The messages without their texts, as in `Reading`.
            plan: How a conversation of their roles and texts alone is rendered.
        """
        if any(key in shell for shell in shells for key in REASONING_KEYS):  # which stand for one another
            return False
        # They hold nothing but texts, numbers, lists and mappings; marks differ by their places.
        shown = tuple(map(repr, _fill_marks(list(shells), "text")))
        if finds_by_prompt(self.template.profile):  # then all is seen in the whole conversation
            is_alike = _is_written_by(plan, _render(self.template, shells, prompt=False))
            return is_alike and (not self._must_probe(shown) or self._is_probed_alike(shells, plan))
        plain = [{"role": shell["role"]} for shell in shells]
        for end in range(1, len(shells) + 1):
            if shown[:end] not in self.known:
                self.known[shown[:end]] = _is_written_alike(self.template, shells[:end], plain[:end])
            if not self.known[shown[:end]]:
                return False
        return self._is_probed_alike(shells, plan)

    def _must_probe(self, shown: Sequence[str]) -> bool:
        """Return True if probes must show the turns behind a constant prompt: the first orders, then ever fewer."""
        kind = frozenset(shown)
        self.seen[kind] = count = self.seen.get(kind, 0) + 1
        return count <= _PROBED or count.bit_count() == 1

    def _is_probed_alike(self, shells: Messages, plan: RenderPlan) -> bool:
        """Return True if a probe of these messages has the text and the turns of the plan."""
        texts = [PROBES[index % 2].format(index) for index in range(len(shells))]
        messages = []
        for shell, text in zip(_fill_marks(list(shells), "Probe"), texts, strict=True):
            parts = shell.get("content")
            messages.append({**shell, "content": [{**parts[0], "text": text}] if parts else text})
        headers = [segment.header for segment in plan.segments]
        found = find_headers(self.template, messages, texts, plan.segments)
        return found == (headers, plan.empty_thoughts, plan.losses)


def _is_written_by(plan: RenderPlan, written: Literals | _Raised | None) -> bool:
    """Return True if what `_render` returned is what a plan writes, for all texts for which the plan holds."""
    if not isinstance(written, Literals):
        return False
    is_alike = (written.literals, written.slots) == join(plan.segments)
    return is_alike and written.forbidden_substrings <= plan.forbidden_substrings


def _is_written_alike(template: ChatTemplate, shells: Messages, plain: Messages) -> bool:
    """Return True if the template writes the same around the texts of both, with its prompt and without."""
    for prompt in (False, True):
        written = _render(template, shells, prompt)
        if written is None or written != _render(template, plain, prompt):
            return False
    return True


def _render(template: ChatTemplate, shells: Messages, prompt: bool) -> Literals | _Raised | None:
    """Return what the template writes around the texts, or what it raises; None where more of them decides that."""
    kwargs = dict(template.kwargs)
    context = {**template.tokenizer.special_tokens_map, **kwargs, "tools": None, "documents": None}
    context["add_generation_prompt"] = prompt
    try:
        source = source_of(template.tokenizer, None, kwargs)
        unseen = _fill_marks(list(shells), make_unseen_text())
        return Literals(*render_symbolic(source, unseen, context, gives_clock(template.tokenizer)))
    except TemplateBranched:
        return None
    except Exception as error:  # a template is a user's program: it may raise anything, for plain messages too
        return type(error), str(error)


def _fill_marks(value: Any, text: str) -> Any:  # of a message
    """Return a value with a text in place of each mark."""
    if holds_mark(value):
        return text
    if isinstance(value, dict):
        return {key: _fill_marks(item, text) for key, item in value.items()}
    return [_fill_marks(item, text) for item in value] if isinstance(value, list) else value
