"""A part of a turn, with what the template wrote around it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llama_padfix.chat.profile.template_probes import ASSISTANT, USER
from llama_padfix.chat.profile.template_profile import TemplateProfile
from llama_padfix.chat.spans.prompted import Prompted
from llama_padfix.chat.tag_pairs import cut_empty_block
from llama_padfix.chat.trace import Render, Trace, common_start

if TYPE_CHECKING:
    from llama_padfix.core.types import Message


@dataclass(frozen=True)
class TracedConversation:
    """A traced conversation, and what is known about it."""

    whole: Trace
    profile: TemplateProfile
    assistant_indices: Collection[int]
    roles: Sequence[str]
    """The role of each message."""
    render: Render
    start_with: Callable[[Message], Trace | None]
    """Renders a message in place of the conversation, with the same tools."""
    prompt: Callable[[int, Trace], Prompted | None]
    """Returns the conversation up to a message, with a generation prompt, beside the whole one."""
    fill: Callable[[Collection[int]], TracedConversation | None]
    """Returns the conversation with a letter as the content of these messages."""

    @cached_property
    def written(self) -> dict[int, list[int]]:
        """The places of the content spans of each message, by its index."""
        found: dict[int, list[int]] = {}
        for place, (_, _, origin) in enumerate(self.whole.content_spans):
            found.setdefault(origin, []).append(place)
        return found

    @cached_property
    def parted(self) -> dict[object, list[tuple[int, int]] | None]:
        """The parts of a message, by how it is written (`spans`), counted from its first content span."""
        return {}

    @cached_property
    def answered(self) -> Trace | None:
        """A plain answer in place of the conversation."""
        return self.start_with(ASSISTANT)

    @cached_property
    def header_start(self) -> int | None:
        """Where the header of a first answer stands, as it does in front of a plain one."""
        header, plain = self.profile.history_header, self.answered
        if plain is None or not header:
            return None
        front = plain.text[: plain.first_of(0)]
        at = front.rfind(header)
        own = cut_empty_block(front[at + len(header) :])  # a plain answer has no thought to fill it
        own = "" if own == self.profile.lead else own
        is_header = at >= 0 and not own.strip() and self.whole.text.startswith(front[: at + len(header)] + own)
        return at if is_header else None

    @cached_property
    def bare_start(self) -> int | None:
        """Where any first message begins, where the template writes no header for a first answer."""
        asked, answered = self.start_with(USER), self.answered
        if asked is None or answered is None:
            return None
        opening = answered.scaffold[: answered.first_of(0)]
        shared = common_start(asked.scaffold, opening)
        is_bare = asked.text[:shared] == answered.text[:shared] and not cut_empty_block(opening[shared:]).strip()
        header = self.profile.question_header.strip()  # whole, or else the answer stands under it
        is_apart = header and header in asked.scaffold[shared : asked.first_of(0)]
        return shared if is_bare and is_apart and self.whole.text.startswith(answered.text[:shared]) else None


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
    def prompted(self) -> Prompted | None:
        """The conversation up to the message, with a generation prompt."""
        return self.conversation.prompt(self.index, self.whole) if self.index else None

    @cached_property
    def constant_seam(self) -> str | None:
        r"""What the template writes behind the last content of `prompted`, where no rendering needs to show it.

        Prompt: `<|im_start|>assistant\n<think>\n`, behind whatever conversation
        Gap:    `<|im_end|>\n<|im_start|>assistant\n` (Qwen 3.5)
        Seam:   `<|im_end|>\n<|im_start|>assistant\n<think>\n`
        """
        profile, header = self.profile, self.profile.history_header
        if not (self.index and profile.prompt_is_always_written and profile.prompt_has_control and header):
            return None
        if not profile.prompt.startswith(header) or self.gap.count(header) != 1 or profile.prompt in self.gap:
            return None
        return self.gap.partition(header)[0] + profile.prompt

    @property
    def seam(self) -> str:
        """What the template writes behind the last content of `prompted`."""
        if self.constant_seam is not None:
            return self.constant_seam
        return self.prompted.tail if self.prompted is not None else ""

    @property
    def is_prompted(self) -> bool:
        """Whether the template writes a prompt behind the conversation up to the message."""
        return self.constant_seam is not None or self.prompted is not None

    @property
    def gap_behind(self) -> str:
        """What the template wrote behind the part's last character, up to the next content."""
        return self.whole.scaffold[self.end : self.after]

    @cached_property
    def silent_behind(self) -> range:
        """The messages without characters right behind the part, whose headers are in `gap_behind`."""
        spans = self.whole.content_spans
        following = spans[self.last + 1][2] if self.last + 1 < len(spans) else len(self.conversation.roles)
        return range(self.index + 1, following)

    @cached_property
    def alone(self) -> Trace | None:
        """The conversation up to the turn, when nothing follows."""
        return self.conversation.render(max(self.seen, self.index + 1), False)

    @property
    def is_left_out_alone(self) -> bool:
        """Whether the template leaves the message out when nothing follows, so that `tail` belongs to another."""
        return self.alone is not None and all(origin != self.index for _, _, origin in self.alone.content_spans)

    @cached_property
    def tail(self) -> str:
        """What the template writes behind the turn when nothing follows, without a prompt that is always there."""
        return "" if self.alone is None else self.alone.tail.removesuffix(self.profile.added_prompt)
