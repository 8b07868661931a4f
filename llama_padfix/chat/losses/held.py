"""What a row holds, compared with what the rendered text holds: every text, thought, call, message and tool.

Each message is looked for in the characters that it wrote itself, where those are known, so that the same words
elsewhere do not hide a loss. What is found is used up: an answer does not stand for a thought of the same words.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from llama_padfix.chat.losses.thoughts import keyed_thoughts, split_thoughts
from llama_padfix.chat.losses.written import USED, WrittenTexts, squash, unescape
from llama_padfix.chat.messages import called_functions, content_texts, texts_in
from llama_padfix.chat.render import Loss, Rendered
from llama_padfix.chat.traced_str import TOOLS

if TYPE_CHECKING:
    from llama_padfix.core.types import Message, Messages, Tool

_DESCRIBED = ("name", "description", "enum")  # what of a schema stays as it is in every notation
_KNOWN_TOOLS = 128
_known_words: dict[str, list[str]] = {}
_ROLES = {"developer": "system", "function": "tool", "ipython": "tool", "tool": "user"}


def find_losses(messages: Messages, tools: Sequence[Tool] | None, rendered: Rendered) -> tuple[Loss, ...]:
    """Return what the template left out of the messages and tools, or wrote as Python code, in the order of messages.

    At most one loss of a kind is returned for each message.
    """
    if rendered.is_whole:
        return ()
    written = WrittenTexts(rendered)
    losses = [loss for index, message in enumerate(messages) for loss in _compare(index, message, written)]
    return (*losses, *_compare_tools(tools or (), written))


def _has_more(written: WrittenTexts, origin: int, message: Message, texts: Sequence[str]) -> bool:
    """Return True if anything of these missing texts may be in the text, in whatever form."""
    own = USED.join(written.of(origin))
    if any(word in own for text in texts for word in text.split()):
        return True
    for name in _names(message):
        own = own.replace(name, "")
    return written.are_known and bool(own.strip("\0 \n")) and not message.get("tool_calls")


def _names(message: Message) -> list[str]:
    """Return what a template may write of a message beside its texts: names, and the keys and ids of its calls."""
    found = [message.get("name"), message.get("tool_call_id")]
    for call in message.get("tool_calls") or ():
        if isinstance(call, Mapping):
            function = call.get("function")
            found += [*call, call.get("id"), call.get("type"), *(function if isinstance(function, Mapping) else ())]
    return [name for name in found if isinstance(name, str)]


def _compare(index: int, message: Message, written: WrittenTexts) -> Iterator[Loss]:
    """Yield what is missing of a message, a loss for each kind."""
    content = message.get("content")
    if isinstance(content, list) and str(content) in written.text:
        yield Loss(
            "lossy",
            index,
            f"The chat template knows no text parts and writes those of message {index} as Python code. "
            "Join them: message['content'] = ''.join(part['text'] for part in message['content'])",
        )
    is_assistant = message.get("role") == "assistant"
    texts = [text for text in content_texts(content) if text.strip()]
    keyed = keyed_thoughts(message)
    calls = [*_read_calls(message)]
    thoughts: list[str] = []
    if is_assistant and written.find_missing(index, [*texts, *keyed.values()], _names(message)):
        split = [split_thoughts(text) for text in texts]
        thoughts = [thought for found, _ in split for thought in found]
        texts = [text for _, rest in split for text in rest]
    thoughts += keyed.values() if is_assistant else ()
    called = [piece for _, pieces in calls for piece in pieces]
    missing = written.find_missing(index, [*called, *texts, *thoughts], _names(message))
    if not missing:
        return
    first_text, first_thought = len(called), len(called) + len(texts)
    lost_texts = [text for place, text in enumerate(texts, first_text) if place in missing]
    if any(place >= first_thought for place in missing):
        yield Loss(
            "lost_reasoning",
            index,
            f"The chat template leaves out the thoughts of message {index}. Keep them, if the template can be "
            "proven to: ChatEncoder(..., keep_reasoning=True); or use another template, which writes them: "
            "template_kwargs={'chat_template': ...}",
        )
    if lost_texts:
        is_whole = len(lost_texts) == len(texts) and not _has_more(written, index, message, texts)
        yield _describe_text(index, message, is_whole=is_whole, beside=bool(calls) or bool(thoughts))
    place = 0
    for name, pieces in calls:
        if missing & {*range(place, place + len(pieces))}:
            yield Loss(
                "lost_tools",
                index,
                f"The chat template leaves out the tool call {name!r} of message {index}. "
                "Use a template that writes tool calls, or write the call into the message's content.",
            )
            return
        place += len(pieces)


def _describe_text(index: int, message: Message, *, is_whole: bool, beside: bool) -> Loss:
    role = str(message.get("role"))
    if role != "assistant" and is_whole:
        cure = (
            "join it to the first message" if role == "system" else f"use another role: {_ROLES.get(role, 'user')!r}"
        )
        return Loss(
            "lost_message",
            index,
            f"The chat template leaves out message {index}, whose role is {role!r}. Where that keeps the meaning, "
            f"{cure}; or use another template, which writes it: template_kwargs={{'chat_template': ...}}",
        )
    if role == "assistant" and beside:
        return Loss(
            "lost_text",
            index,
            f"The chat template leaves out the text of message {index}, which stands beside a tool call or a thought. "
            "Use another template, which writes both, or give the text a message of its own.",
        )
    amount = "none" if is_whole else "only a part"
    return Loss(
        "lost_text",
        index,
        f"The chat template writes {amount} of the text of message {index}. Use content of the kind that it "
        "reads: a text, or a list of parts [{'type': 'text', 'text': ...}]",
    )


def _compare_tools(tools: Sequence[Tool], written: WrittenTexts) -> Iterator[Loss]:
    """Yield a loss if a word of a tool's schema is missing."""
    own = "".join(written.of(TOOLS))
    squashed = ""
    for tool in tools:
        words = _read_words(tool)
        missing = [word for word in words if word.strip() not in own]
        if missing:
            squashed = squashed or f"{squash(own)}{USED}{squash(unescape(own))}"
            missing = [word for word in missing if squash(word) not in squashed]
        if missing:
            name = repr(words[0]) if len(missing) < len(words) else "any"
            what = f"{missing[0]!r} of the tool {name}" if len(missing) < len(words) else f"the tool {words[0]!r}"
            yield Loss(
                "lost_tools",
                None,
                f"The chat template leaves out {what}. Use a template that writes the tools, or write their schemas "
                "into the system message.",
            )
            return


def _read_calls(message: Message) -> Iterator[tuple[str, list[str]]]:
    """Yield each tool call as its name and all its texts."""
    for function in called_functions(message):
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str):
            if isinstance(arguments, str):
                with contextlib.suppress(ValueError):  # no JSON: a text like any other
                    arguments = json.loads(arguments)
            yield name, [text for text in (name, *texts_in(arguments)) if text.strip()]


def _read_words(tool: Tool) -> list[str]:
    """Return what `_read_schema` yields of a tool; many rows have the same ones."""
    key = repr(tool)
    found = _known_words.get(key)
    if found is None:
        if len(_known_words) >= _KNOWN_TOOLS:
            _known_words.clear()
        found = _known_words[key] = [*_read_schema(tool)]
    return found


def _read_schema(value: object) -> Iterator[str]:
    """Yield the names, descriptions and choices in a tool's schema, the tool's name first."""
    if isinstance(value, Mapping):
        function = value.get("function")
        if isinstance(function, Mapping):
            yield from _read_schema(function)
            return
        for key in _DESCRIBED:
            items = value.get(key)
            for item in items if isinstance(items, (list, tuple)) else [items]:
                if isinstance(item, str) and item.strip():
                    yield item
        for key, item in value.items():
            if key == "properties" and isinstance(item, Mapping):
                for name, inner in item.items():
                    yield str(name)
                    yield from _read_schema(inner)
            elif key not in _DESCRIBED:
                yield from _read_schema(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _read_schema(item)
