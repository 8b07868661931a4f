"""The conversations that a chat template is probed with, rendered plainly and traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.chat.trace import Trace, read_trace
from llama_padfix.chat.traced_render import render_traced

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, Messages, TokenizerLike

# Plain words, so that no template trims, splits or escapes them; each must come out exactly once.
QUESTION, ANSWER = "Probequestion", "Probeanswer"
USER, ASSISTANT = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
_WORDS = (QUESTION, ANSWER, "Secondquestion", "Secondanswer")
_CALLED, _RESULT = "look", "Proberesult"
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": _CALLED, "arguments": {"at": "sky"}}}


@dataclass(frozen=True)
class TracedProbes:
    """Traced renderings of one to four messages, questions and answers in turn; None where the template refuses."""

    asked: Trace
    """One question, without a generation prompt."""
    prompted: Trace
    """One question, with a generation prompt."""
    answered: Trace
    """A question and its answer."""
    asked_again: Trace | None
    """Three messages: the first answer stands in the history."""
    answered_again: Trace | None
    """Four messages."""
    called: Trace | None
    """A question and a tool call; None where the template leaves the call out."""
    called_again: Trace | None
    """The same with the tool's answer; None where the template does not write both once."""
    called_then_asked: Trace | None
    """A question, a tool call, and another question."""
    answered_twice: Trace | None
    """A question, and two answers in a row."""
    answered_first: Trace | None
    """An answer alone."""
    before_question: tuple[Trace, ...]
    """A system message, and a user's, in front of a question; those that the template accepts."""

    @property
    def between(self) -> str:
        """What stands between a question and its answer."""
        return self.answered.gap(0, 1)

    @property
    def in_front_of_answers(self) -> list[str]:
        """What stands in front of each answer: the last of a conversation, and those in the history."""
        longest = self.answered_again
        return [self.between] if longest is None else [self.between, longest.gap(0, 1), longest.gap(2, 3)]


def probe_messages(
    count: int, roles: Sequence[str] = ("user", "assistant"), *, as_parts: bool = False
) -> list[Message]:
    """Return a conversation of so many messages of a word each, as text or as a list of parts."""
    return [
        {"role": roles[n % 2], "content": [{"type": "text", "text": word}] if as_parts else word}
        for n, word in enumerate(_WORDS[:count])
    ]


def trace_probes(tokenizer: TokenizerLike, kwargs: Mapping[str, object], as_parts: bool) -> TracedProbes | None:
    """Return the probes as the template renders them; None where it does not write each word once."""

    def probe(count: int, prompt: bool = False, roles: Sequence[str] = ("user", "assistant")) -> Trace | None:
        found = _trace(tokenizer, probe_messages(count, roles, as_parts=as_parts), kwargs, prompt)
        return found if found is not None and _is_once(found, count) else None

    asked, prompted, answered = probe(1), probe(1, True), probe(2)
    if asked is None or prompted is None or answered is None:
        return None
    first, second, third = probe_messages(3, as_parts=as_parts)
    call: Message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    called = _trace(tokenizer, [first, call], kwargs)
    if called is not None and not (_is_once(called, 1) and _writes_call(called)):
        called = None
    result: Message = {"role": "tool", "name": _CALLED, "tool_call_id": CALL["id"], "content": _RESULT}
    called_again = called_then_asked = None
    if called is not None:
        called_then_asked = _trace(tokenizer, [first, call, third], kwargs)
        called_again = _trace(tokenizer, [first, call, result], kwargs)
        origins = [origin for _, _, origin in called_again.content_spans] if called_again is not None else []
        if called_again is not None and not (_is_once(called_again, 1) and 1 in origins and origins.count(2) == 1):
            called_again = None
    twice = _trace(tokenizer, [first, second, {**third, "role": "assistant"}], kwargs)
    fronts = [probe(2, roles=(role, "user")) for role in ("system", "user")]
    return TracedProbes(
        asked,
        prompted,
        answered,
        probe(3),
        probe(4),
        called,
        called_again,
        called_then_asked,
        twice if twice is not None and _is_once(twice, 3) else None,
        probe(1, roles=("assistant", "user")),
        tuple(front for front in fronts if front is not None),
    )


def _trace(
    tokenizer: TokenizerLike, messages: Messages, kwargs: Mapping[str, object], prompt: bool = False
) -> Trace | None:
    try:
        return read_trace(render_traced(tokenizer, messages, None, kwargs, prompt))
    except Exception:  # a template is a program of its author: it may raise anything
        return None


def _writes_call(trace: Trace) -> bool:
    """Return True if the name of the call stands where a message wrote it: the template's own words may hold it."""
    return any(_CALLED in trace.text[start:end] for start, end, origin in trace.content_spans if origin != 0)


def _is_once(trace: Trace, count: int) -> bool:
    """Return True if the word of each message was written once, however the template changed it."""
    written = [
        sum(end - start for start, end, origin in trace.content_spans if origin == index) for index in range(count)
    ]
    return all(0 < length < 2 * len(word) for length, word in zip(written, _WORDS, strict=False))
