"""The conversation up to a message with a generation prompt: as it was noted in the whole, or rendered."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from llama_padfix.chat.seams.noted import PROMPTS, Prompts
from llama_padfix.chat.trace import Render, Trace, is_prefix, read_trace
from llama_padfix.chat.traced_render import render_traced
from llama_padfix.chat.traced_str import lift

if TYPE_CHECKING:
    from llama_padfix.chat.profile.template_profile import TemplateProfile
    from llama_padfix.chat.render import RenderRequest
    from llama_padfix.core.types import Messages


@dataclass(frozen=True)
class Prompted:
    """What the conversation up to a message, with a generation prompt, shows beside the whole conversation."""

    length: int
    """Where its text ends."""
    tail: str
    """What the template writes behind its last content."""
    is_beginning: bool
    """Whether the whole conversation begins with it, author by author."""


def read_rendered(trace: Trace, whole: Trace) -> Prompted:
    """Return what a rendering shows."""
    return Prompted(len(trace.text), trace.tail, is_prefix(trace, whole))


def read_noted(at: int, prompt: str, whole: Trace) -> Prompted | None:
    """Return what a prompt shows that was noted at a place of the whole; None where that may differ from a rendering.

    The place must part what the messages in front of it wrote from the rest.
    """
    noted, spans = read_trace(lift(prompt)), whole.content_spans
    if noted.content_spans or noted.generation or at > len(whole.text):
        return None
    behind = bisect_right(spans, at, key=itemgetter(1))
    if (behind and spans[behind - 1][0] == at) or (behind < len(spans) and spans[behind][0] < at):
        return None
    tail = whole.scaffold[spans[behind - 1][1] if behind else 0 : at] + noted.scaffold
    is_same = whole.text.startswith(noted.text, at) and whole.scaffold.startswith(noted.scaffold, at)
    return Prompted(at + len(noted.text), tail, is_same)


def find_prompted(noted: Prompts | None, index: int, whole: Trace, render: Render) -> Prompted | None:
    """Return the conversation up to a message, with a generation prompt; None where the template refuses it."""
    place = None if noted is None else noted.find(index)
    found = None if place is None else read_noted(*place, whole)
    trace = render(index, True) if found is None else None
    return found if trace is None else read_rendered(trace, whole)


def start_notes(profile: TemplateProfile) -> Prompts | None:
    """Return where a template notes its prompts; None where they are known."""
    return None if profile.prompt_is_constant else Prompts()


def follow(
    request: RenderRequest, messages: Messages, prompt: bool = False, noted: Prompts | None = None
) -> Trace | None:
    """Return messages as the template renders them, and who wrote each character; None where it refuses them."""
    template = request.template
    kwargs = template.kwargs if noted is None else {**template.kwargs, PROMPTS: noted}
    try:
        return read_trace(render_traced(template.tokenizer, messages, request.tools, kwargs, prompt))
    except Exception:  # a template may refuse a part of a conversation
        return None
