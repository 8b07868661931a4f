"""A part of a turn, with what the template wrote around it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from llama_padfix.chat.profile.template_profile import TemplateProfile
from llama_padfix.chat.trace import Render, Trace


@dataclass(frozen=True)
class TracedConversation:
    """A traced conversation, and what is known about it."""

    whole: Trace
    profile: TemplateProfile
    assistant_indices: Collection[int]
    render: Render


@dataclass(frozen=True)
class Part:
    """Content spans `first` to `last` of a traced conversation, which are one part of the turn of message `index`."""

    conversation: TracedConversation
    index: int
    first: int
    last: int
    seen: int
    """How many messages stand in front of the part; more than `index` where it goes on behind a tool's answer."""
    result: int | None = None
    """Where the block opens that holds a tool's answer, if one stands inside the turn: `<result>blue</result>`."""

    @cached_property
    def whole(self) -> Trace:
        """The rendered conversation."""
        return self.conversation.whole

    @cached_property
    def profile(self) -> TemplateProfile:
        """What is known about the template."""
        return self.conversation.profile

    @property
    def before(self) -> int:
        """Where the content in front of the part ends."""
        return self.whole.content_spans[self.first - 1][1] if self.first else 0

    @property
    def begin(self) -> int:
        """Where the part's own characters begin."""
        return self.whole.content_spans[self.first][0]

    @property
    def end(self) -> int:
        """Where the part's own characters end."""
        return self.whole.content_spans[self.last][1]

    @property
    def after(self) -> int:
        """Where the content behind the part begins."""
        spans = self.whole.content_spans
        behind = spans[self.last + 1][0] if self.last + 1 < len(spans) else len(self.whole.text)
        return behind if self.result is None else self.result

    @cached_property
    def gap(self) -> str:
        """What the template wrote in front of the part."""
        return self.whole.scaffold[self.before : self.begin]

    @cached_property
    def prompted(self) -> Trace | None:
        """The conversation up to the message, with a generation prompt."""
        return self.conversation.render(self.index, True) if self.index else None

    @property
    def seam(self) -> str:
        """What the template writes behind the last content of `prompted`."""
        return self.prompted.tail if self.prompted is not None else ""

    @property
    def gap_behind(self) -> str:
        """What the template wrote behind the part's last character, up to the next content."""
        return self.whole.scaffold[self.end : self.after]

    @cached_property
    def tail(self) -> str:
        """What the template writes behind the turn when nothing follows, without a prompt that is always there."""
        alone = self.conversation.render(max(self.seen, self.index + 1), False)
        return "" if alone is None else alone.tail.removesuffix(self.profile.added_prompt)
