"""What a chat template writes in front of a turn that is sampled: the prompt, and the text behind an earlier turn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_padfix.chat.trace import count_equal
from llama_padfix.chat.turns import render_turns
from llama_padfix.core.errors import PadfixError
from llama_padfix.encoding.chat_rows import ChatRenderer
from llama_padfix.tokens.calls import apply_template
from llama_padfix.tokens.control import find_control_text, find_rewritable, special_ids, text_end_id
from llama_padfix.tokens.offsets import encode_spans
from llama_padfix.tokens.spelled import encode_around, make_text_backend

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, Messages, TokenizerLike, Tool
    from llama_padfix.tokens.offsets import EncodedText

_QUESTION = {"role": "user", "content": "Question"}
# Stand-ins for an answer of which only the ids are known: text, function and id of a call (nine letters for Mistral).
_STAND_INS = (("Answer", "look", "abcdefghi"), ("Reply", "seek", "ihgfedcba"))


def read_tools(tools: Sequence[Tool | Callable[..., object]] | None) -> list[Tool] | None:
    """Return tools as schemas; functions, which TRL takes, by their signature and docstring."""
    if tools is None:
        return None
    from transformers.utils import get_json_schema

    return [get_json_schema(tool) if callable(tool) else tool for tool in tools]


class Written(NamedTuple):
    """What is written behind a sampled turn, up to where the next one begins."""

    stop_id: int | None
    """What the template ends the turn with; None where it ends it without a stop token."""
    ids: list[int]


@dataclass
class PromptWriter:
    """Writes prompts with a tokenizer's chat template. Control tokens that a message spells become text."""

    tokenizer: TokenizerLike
    template_kwargs: dict[str, object]
    tools: Sequence[Tool] | None

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """The ids of the control tokens."""
        return frozenset(special_ids(self.tokenizer).values())

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """What ends a turn in the template, and a text in the tokenizer."""
        tokenizer, controls = self.tokenizer, special_ids(self.tokenizer)
        template = self._chats.find_template()
        found = {controls.get(token) for token in (template.profile.stops if template is not None else ())}
        found |= {tokenizer.eos_token_id, text_end_id(controls, tokenizer.eos_token_id)}
        return frozenset(token_id for token_id in found if token_id is not None)

    def write_prompt(self, messages: Messages) -> list[int]:
        """Return the ids of a conversation with the generation prompt behind it."""
        return self._write(messages, None)[0]

    def write_behind(self, context: Messages | None, appended: Messages) -> Written:
        """Return what stands between a sampled turn and the next one.

        Args:
            context: What the turn answers; None where that is known as ids only.
            appended: The messages behind the turn. An assistant's message in front of them is the turn itself.

        Raises:
            PadfixError: The template leaves one of the messages out, or the text depends on a message of the turn
                that is not there.
        """
        first = [*(context or [_QUESTION])]
        if appended and appended[0].get("role") == "assistant":
            found = [self._cut([*first, *appended], len(first))]
        else:
            results = [message for message in appended if message.get("role") == "tool"]
            try:
                found = [self._cut([*first, answer, *appended], len(first)) for answer in _stand_in(results)]
            except PadfixError:
                if not results:
                    raise
                # Llama 3.1 takes one call in a turn, and several results behind it
                found = [self._cut([*first, answer, *appended], len(first)) for answer in _stand_in(())]
        if any(one != found[0] for one in found):
            raise PadfixError(
                "The chat template writes parts of the model's turn behind it (the name of the function that a tool's "
                "result answers), and the turn is known as ids only. Pass its message in front of the others: "
                "[{'role': 'assistant', 'tool_calls': [...]}, {'role': 'tool', ...}]"
            )
        return found[0]

    @cached_property
    def _chats(self) -> ChatRenderer:
        return ChatRenderer(self.tokenizer, self.template_kwargs)

    def _cut(self, messages: Messages, answer: int) -> Written:
        """Return what is written behind the turn of the message number `answer`."""
        try:
            ids, first, stop_id = self._write(messages, answer)
        except PadfixError:
            if not (quoted := _quote_arguments(messages)):
                raise
            ids, first, stop_id = self._write(quoted, answer)  # DeepSeek V3 takes them as text
        return Written(stop_id, ids[first:])

    def _write(self, messages: Messages, answer: int | None) -> tuple[list[int], int, int | None]:
        """Return the ids of messages with a generation prompt, and where and with which id the turn `answer` ends."""
        tokenizer, template = self.tokenizer, self._chats.template
        rewritable = find_rewritable(tokenizer, self._chats.tokens)
        trained = [] if answer is None else [answer]
        rendered = render_turns(template, messages, self.tools, trained, allow_loss=True, rewritable=rewritable)
        behind = len(messages) if answer is None else answer
        for loss in rendered.losses:
            if loss.message is not None and loss.message > behind:
                raise PadfixError(loss.text)
        text = apply_template(
            tokenizer, messages, tools=self.tools, add_generation_prompt=True, template_kwargs=template.kwargs
        )
        turn = rendered.turns[-1] if rendered.turns else None
        start, end, stops = (turn.start, turn.end, turn.stops) if turn is not None else (0, 0, False)
        is_same = text.startswith(rendered.text)
        if not is_same and count_equal(text, rendered.text) < max([end, *(last for _, last in rendered.spelled)]):
            raise PadfixError(
                "The chat template writes these messages in another way where a generation prompt is asked for, so "
                "that it cannot be told what stands behind the turn. Pass the ids that were appended."
            )
        ends = [
            token for _, last, token in find_control_text(text[start:end], template.controls) if last == end - start
        ]
        # What stands before the turn changes no id behind it.
        spelled = [(first - start, last - start) for first, last in rendered.spelled if first >= start]
        return self._encode(text[start:], spelled, end - start, ends[0] if ends and stops else None)

    def _encode(
        self, text: str, spelled: Sequence[tuple[int, int]], end: int, stop: str | None
    ) -> tuple[list[int], int, int | None]:
        """Return the ids of a text, how many belong to the characters up to `end`, and the id of what stops there."""
        tokenizer, tokens = self.tokenizer, self._chats.tokens

        def place(span: tuple[int, int]) -> EncodedText:
            if spelled:
                backend = make_text_backend(tokenizer, tokens)
                return encode_around(tokenizer, text, spelled, tokens, backend, [span])
            return next(encode_spans(tokenizer, [text], [[span]]))

        if not end:
            return place((0, len(text))).ids, 0, None
        ids, _, [first] = place((0, end))
        if stop is not None:
            stop_id = special_ids(tokenizer)[stop]
            first += ids[first - 1] != stop_id and ids[first : first + 1] == [stop_id]  # it took white space along
            if ids[first - 1] == stop_id:
                return ids, first, stop_id
        elif place((end, len(text))).places[0][0] == first:
            return ids, first, None
        raise PadfixError(
            f"No token ends where the turn ends in {text[max(end - 20, 0) : end + 20]!r}, so that it cannot be told "
            "which ids stand behind it. Pass the ids that were appended."
        )


def _stand_in(results: Messages) -> Iterator[Message]:
    """Yield answers, with a call for each result, that differ in all that is not known of the sampled one."""
    for text, name, call_id in _STAND_INS:
        calls = [
            {
                "type": "function",
                "id": result.get("tool_call_id") or call_id,
                "function": {"name": result.get("name") or name, "arguments": {"at": text}},
            }
            for result in results
        ]
        yield (
            {"role": "assistant", "content": "", "tool_calls": calls}
            if calls
            else {
                "role": "assistant",
                "content": text,
            }
        )


def _quote_arguments(messages: Messages) -> list[Message] | None:
    """Return messages with the arguments of calls as JSON text; None where that changes nothing."""
    quoted = [
        {**message, "tool_calls": [_quote(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]
    return None if quoted == [*messages] else quoted


def _quote(call: Mapping[str, Any]) -> Mapping[str, Any]:  # a call in whatever form
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), Mapping):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"])}}
