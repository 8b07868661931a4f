"""Conversations of all kinds, with the labels that the encoder gives them: what markers are checked against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.profile.template_probes import CALL
from llama_padfix.chat.turns import read_template, render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.encoded_rows import label_tokens
from llama_padfix.tokens.offsets import encode_spans

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate, Rendered, Turn
    from llama_padfix.core.types import Message, TokenizerLike
    from llama_padfix.tokens.offsets import StartEnd

_EDGES = ("\nWord", "\n\nWord\n", " \n Word", "\tWord ", " Word", "", "\n")
_THOUGHTS = (
    "<think>\nHm\n</think>\n\nWord",
    "<think>\nHm\n</think>\n\n  \n Word",
    "<think></think>Word",
    "<think>\n\n</think>\n\nWord",
)
_TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class LabeledProbe:
    """An encoded conversation: its ids and labels, and the trained spans of tokens."""

    ids: list[int]
    labels: list[int]
    spans: list[StartEnd]
    stopped: list[bool]
    """Whether each span ends with a stop token."""
    has_tools: bool


def label_probes(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> Iterator[LabeledProbe]:
    """Yield the conversations that the template takes, as the encoder labels them; none without offsets."""
    template = read_template(tokenizer, kwargs)
    if not (getattr(tokenizer, "is_fast", False) and hasattr(tokenizer, "convert_ids_to_tokens")):
        return  # also what stands in for the tokenizer of a folder, in which no rows are looked at
    prompt, header = template.profile.prompt, template.profile.history_header
    supplied = prompt.rpartition(header)[2] if header in prompt and header else ""
    rendered: dict[str, tuple[list[Turn], bool]] = {}
    for as_parts in (False, True):
        for messages, kinds in _conversations(as_parts, supplied):
            for tools in kinds:
                found = _render(template, messages, tools) or _render(template, _write_arguments(messages), tools)
                if found is not None and not found.spelled:
                    rendered[found.text] = _join(found.turns), len(kinds) > 1
        if rendered:
            break
    spans = [[(turn.start, turn.end) for turn in turns] for turns, _ in rendered.values()]
    encoded = encode_spans(tokenizer, [*rendered], spans)
    for (turns, has_tools), (ids, places, _) in zip(rendered.values(), encoded, strict=True):
        yield LabeledProbe(ids, label_tokens(ids, places), places, [turn.stops for turn in turns], has_tools)


def _render(template: ChatTemplate, messages: Sequence[Message], tools: Any) -> Rendered | None:
    with suppress(PadfixError):  # nothing to compare with
        return render_turns(template, messages, tools, allow_loss=True)
    return None


def _write_arguments(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the arguments of calls as JSON text, which some templates demand."""
    written = {**CALL, "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    return [
        {**message, "tool_calls": [written for _ in message["tool_calls"]]} if "tool_calls" in message else message
        for message in messages
    ]


def _join(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns, those that touch as one."""
    joined: list[Turn] = []
    for turn in turns:
        start = joined.pop().start if joined and joined[-1].end == turn.start else turn.start
        joined.append(replace(turn, start=start))
    return joined


def _conversations(as_parts: bool, supplied: str) -> Iterator[tuple[list[Message], list[Any]]]:
    """Yield conversations of all kinds, each with the tools to render it with, one after another.

    In some an answer begins with what the generation prompt has `supplied`.
    """

    def say(role: str, text: str = "Word", **more: object) -> Message:
        return {"role": role, "content": [{"type": "text", "text": text}] if as_parts else text, **more}

    order, ask, answer = say("system"), say("user"), say("assistant")
    thinking, more = say("assistant", reasoning_content="Hm"), say("assistant", reasoning_content="So it is")
    call, results = say("assistant", "", tool_calls=[CALL]), [say("tool", name="look", tool_call_id=CALL["id"])]
    calls = say("assistant", "Words", tool_calls=[CALL, CALL])
    for messages in (
        [ask, answer],
        [ask, answer, ask, answer],
        [order, ask, answer, ask, answer],
        [ask, answer, ask],
        [answer, ask, answer],
        [ask, answer, answer],
        [ask, answer, order, ask, answer],
        [ask, more],
        [ask, thinking, ask, thinking],
        *([say("user", text or "Word"), say("assistant", text), ask, answer] for text in _EDGES),
        *([ask, say("assistant", text)] for text in (*_EDGES, *_THOUGHTS, supplied + "Word")),
        *([ask, say("assistant", text), ask, answer] for text in (*_THOUGHTS, supplied + "Word")),
    ):
        yield messages, [None]
    for messages in (
        [ask, call],
        [ask, call, *results, answer],
        [ask, calls, *results, *results, thinking, ask, answer],
        [ask, calls, *results, call, *results, answer],
        [ask, {**call, "reasoning_content": "Hm"}, *results, thinking],
        [ask, call, *results],
    ):
        yield messages, [None, [_TOOL]]
