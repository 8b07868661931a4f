"""The second strategy of `turns`: turns by who wrote each character."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING

from llama_padfix.chat.render import Refusal, Rendered, RenderRequest, Turn, refuse
from llama_padfix.chat.spans.filled import find_spans_by_letters
from llama_padfix.chat.spans.lost import place_lost
from llama_padfix.chat.spans.parts import TracedConversation
from llama_padfix.chat.spans.prompted import Prompted, find_prompted, follow, start_notes
from llama_padfix.chat.spans.spelled import find_spelled
from llama_padfix.chat.trace import Trace, count_equal

if TYPE_CHECKING:
    from llama_padfix.core.errors import PadfixError
    from llama_padfix.core.types import Message, Messages

_LETTER = "x"
_RENDERINGS = 4  # of one conversation that are kept: rules ask for those around one message


def find_by_origin(request: RenderRequest) -> Rendered | PadfixError:
    """Return the turns found by where each character comes from, or the error that says why that proves nothing.

    Raises:
        PadfixError: A turn would hold what its message did not write: the prefixes of a conversation do not show that.
    """
    template, messages, tools, text = request.template, request.messages, request.tools, request.text
    first = min(request.trained_indices, default=0)
    if not template.profile.is_traced:
        return refuse(first, Refusal.UNPROBED)

    conversation = _trace(request, messages)
    if conversation is None:
        return refuse(first, Refusal.UNTRACED)
    whole = conversation.whole
    if template.continues and whole.text.startswith(text):
        whole = whole.cut(len(text))
    if whole.text != text:
        return refuse(first, Refusal.UNTRACED, text, count_equal(whole.text, text))
    spelled = find_spelled(template, messages, tools, whole, request.rewritten)
    if isinstance(spelled, int):
        refusal = refuse(first, Refusal.REWRITTEN, text, spelled)
        if whole.lost:  # a token of unknown origin, which the prefixes would take for the template's
            raise refusal
        return refusal
    conversation = replace(conversation, whole=whole)
    spans = find_spans_by_letters(conversation, request.trained_indices)
    for span in spans:
        if span.refusal is not None:
            refusal = refuse(span.message, span.refusal, text, span.start)
            if span.refusal is Refusal.FOREIGN:
                raise refusal
            return refusal
    turns = tuple(Turn(span.message, span.start, span.end, span.stops) for span in spans)
    return Rendered(text, turns, spelled, whole.generation, content_spans=whole.text_spans)


def _trace(request: RenderRequest, messages: Messages) -> TracedConversation | None:
    """Return the traced conversation of these messages; None where the template refuses them."""

    def render_alone(count: int, prompt: bool, blank_message: int | None = None) -> Trace | None:
        given = [
            {**message, "content": ""} if n == blank_message else message for n, message in enumerate(messages[:count])
        ]
        return follow(request, given, prompt)

    noted = start_notes(request.template.profile)
    prefix = cache(partial(render_alone, prompt=False))  # looked at again for each rendering of lost origin

    @lru_cache(maxsize=_RENDERINGS)
    def render(count: int, prompt: bool, blank_message: int | None = None) -> Trace | None:
        trace = None
        if noted is not None and count == len(messages) and not prompt and blank_message is None:
            trace = follow(request, messages, noted=noted)
        trace = trace or render_alone(count, prompt, blank_message)
        return None if trace is None else place_lost(trace, messages, prefix)

    def find_prompt(index: int, whole: Trace) -> Prompted | None:
        return find_prompted(noted, index, whole, render)

    def fill(indices: Collection[int]) -> TracedConversation | None:
        given = [_fill(message) if n in indices else message for n, message in enumerate(messages)]
        filled = _trace(request, given)
        if filled is None or not request.template.continues:
            return filled
        return replace(filled, whole=filled.whole.cut(len(request.text) + len(indices)))

    whole = render(len(messages), False)
    if whole is None:
        return None
    return TracedConversation(
        whole,
        request.template.profile,
        frozenset(request.assistant_indices),
        [str(message.get("role")) for message in messages],
        render,
        lambda message: follow(request, [message]),
        find_prompt,
        fill,
    )


def _fill(message: Message) -> Message:
    content: object = _LETTER
    if isinstance(message.get("content"), list):
        content = [{"type": "text", "text": _LETTER}]
    return {**message, "content": content}
