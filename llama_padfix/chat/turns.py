"""A conversation's turns: which characters of the rendered text the model itself must produce.

The conversation is rendered once by the tokenizer and once in a sandbox in which every character keeps its
origin; equal texts prove that the second is the template's. Turns are then looked for among the characters that
the template wrote, so `<|eot_id|>` in a user's message is text and opens or ends nothing. Where that proves
nothing, every prefix of the conversation is rendered; where that proves nothing either, an error says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_padfix.chat.prefixes import render_by_prefixes
from llama_padfix.chat.render import ChatTemplate, Rendered, Turn, refuse, render_text
from llama_padfix.chat.spans import FOREIGN, find_spans
from llama_padfix.chat.template_profile import learn_structure, observe_template
from llama_padfix.chat.trace import Trace, read_trace
from llama_padfix.chat.traced_render import render_traced, source_of
from llama_padfix.chat.traced_str import LOST, TOOLS, trace
from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.control import common_prefix, find_control_text, find_rewritten, find_tags, special_ids

__all__ = ["read_template", "render_turns"]


def read_template(tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> ChatTemplate:
    """Return the tokenizer's chat template, probed. Raises `PadfixError` when it has none or it cannot be read."""
    kwargs = dict(kwargs or {})
    facts = observe_template(tokenizer, kwargs)
    if facts is None:
        raise PadfixError(
            "The tokenizer has no chat template, so a conversation cannot be rendered. Give it the one of the model "
            "family: tokenizer.chat_template = AutoTokenizer.from_pretrained(instruct_model).chat_template"
        )
    controls = tuple(special_ids(tokenizer))
    structure = learn_structure(tokenizer, kwargs, facts, controls)
    if facts.error is not None and structure is None:
        raise PadfixError(
            f"The chat template cannot be read: {facts.error}. Check it by hand: "
            "tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hi'}], tokenize=False)"
        )
    return ChatTemplate(
        tokenizer, facts, controls, kwargs, structure, find_tags(tokenizer, _sources(tokenizer, kwargs))
    )


def _sources(tokenizer: Any, kwargs: Mapping[str, Any]) -> str:
    """Return the sources of the templates without and with tools."""
    found = ""
    given: list[list[Any] | None] = [None, [{}]]
    for tools in given:
        with contextlib.suppress(Exception):  # named templates of which none is the default
            found += source_of(tokenizer, tools, kwargs)
    return found


def render_turns(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None = None,
    wanted: Collection[int] | None = None,
    *,
    allow_loss: bool = False,
    rewritable: Sequence[str] = (),
) -> Rendered:
    """Return the text of a conversation and the part of it that the model must produce, turn by turn.

    The text is that of `apply_chat_template(messages, tokenize=False)`. `wanted` are the indices of the assistant
    messages whose turns are returned, all by default. What a template loses of a conversation without a word (a
    tool call, a message's text) is an error, or with `allow_loss` told in `Rendered.losses`. `rewritable` are the
    control tokens and tags that a normalizer may make of other text (`find_rewritable`): such text is `spelled` too.
    Raises `PadfixError` when the template refuses the conversation, or when where a turn begins and ends cannot be
    proven.
    """
    spoken = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    if wanted is None:
        wanted = spoken
    _require_roles(messages, template.controls + template.tags)
    text = render_text(template, messages, tools)
    rewritten = find_rewritten(template.tokenizer, text, rewritable) if rewritable else []
    plain = _find_plain(template, messages, wanted, text) if tools is None and not rewritten else None
    if plain is not None:
        return Rendered(text, plain)
    rendered = _find_by_origin(template, messages, tools, spoken, wanted, text, rewritten)
    if isinstance(rendered, PadfixError):
        refusal = rendered
        if rewritten:  # prefixes do not show who wrote it
            start, end, token = rewritten[0]
            raise PadfixError(
                f"The text {text[start:end]!r} becomes the control token {token!r} when it is normalized, and the "
                "template does not show who wrote it. Remove it from the message's content."
            )
        if template.facts.error is not None:
            raise refusal
        try:
            rendered = render_by_prefixes(template, messages, tools, wanted, text)
        except PadfixError:
            raise refusal from None
    losses = _find_losses(messages, rendered)
    if losses and not allow_loss:
        raise PadfixError(losses[0])
    return replace(rendered, losses=losses) if losses else rendered


def _find_plain(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]], wanted: Collection[int], text: str
) -> tuple[Turn, ...] | None:
    """Find the turns of a plain conversation in its text alone; None where that proves nothing.

    Proof: the generation prompt cannot depend on the conversation and holds a control token; no message spells
    one; and each prompt in the text is followed by the next assistant message, whole, and by the stop token.
    """
    structure = template.structure
    if structure is None or not (structure.steady and structure.ending and structure.prompt_has_control):
        return None
    if not all(message.keys() == {"role", "content"} and isinstance(message["content"], str) for message in messages):
        return None
    said = "\0".join([message["content"] for message in messages])
    if common_prefix(template.controls) in said and find_control_text(said, template.controls):
        return None
    if template.tags and common_prefix(template.tags) in said:
        asked = "\0".join([message["content"] for message in messages if message["role"] != "assistant"])
        if find_control_text(asked, template.tags):
            return None
    turns = []
    position = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = text.find(structure.prompt, position) + len(structure.prompt)
        if start < len(structure.prompt):
            return None
        for content in (message["content"], message["content"].strip()):
            end = start + len(content) + len(structure.ending)
            if text.startswith(content, start) and text.startswith(structure.ending, start + len(content)):
                break
        else:
            return None
        position = end
        turns.append(Turn(index, start, end, True))
    if text.count(structure.prompt) != len(turns):
        return None
    return tuple(turn for turn in turns if turn.message in wanted)


def _find_by_origin(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    spoken: Sequence[int],
    wanted: Collection[int],
    text: str,
    rewritten: Sequence[tuple[int, int, str]] = (),
) -> Rendered | PadfixError:
    """Find the turns by where each character comes from, or say why that proves nothing."""
    first = min(wanted, default=0)
    if template.structure is None:
        return refuse(first, "probes do not show how the template writes a turn")

    def follow(count: int, prompt: bool, hushed: int | None = None) -> Trace | None:
        given = [{**message, "content": ""} if n == hushed else message for n, message in enumerate(messages[:count])]
        try:
            return read_trace(render_traced(template.tokenizer, given, tools, template.kwargs, prompt))
        except Exception:  # a template may refuse a part of a conversation
            return None

    whole = follow(len(messages), False)
    if whole is None or whole.text != text:
        return refuse(first, "the template cannot be followed")
    spelled = _find_spelled(template, messages, tools, whole, rewritten)
    if spelled is None:
        return refuse(first, "the template rewrites its text in a way that cannot be followed")
    spans = find_spans(whole, template.structure, spoken, wanted, follow)
    for span in spans:
        if span.reason == FOREIGN:
            raise refuse(span.message, span.reason)  # known, and prefixes do not see it
        if span.reason:
            return refuse(span.message, span.reason)
    turns = tuple(Turn(span.message, span.start, span.end, span.stops) for span in spans)
    written = frozenset(origin for start, end, origin in whole.blocks if end > start)
    return Rendered(text, turns, spelled, whole.generation, written=written)


def _find_spelled(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    whole: Trace,
    rewritten: Sequence[tuple[int, int, str]],
) -> tuple[tuple[int, int], ...] | None:
    """Return where text that a message or a tool wrote spells a control token; None where that is not known.

    A tag that an assistant wrote is its own, but not one in the arguments of its calls.
    """
    spelled: list[tuple[int, int]] = []
    tags = frozenset(template.tags)
    called: Trace | None = None
    found = find_control_text(whole.text, template.controls + template.tags)
    for start, end, token in sorted([*found, *rewritten]) if rewritten else found:
        own, said_as = whole.own[start:end], whole.text[start:end]
        if own == said_as:
            continue
        if token in tags:
            authors = {origin for left, right, origin in whole.blocks if left < end and start < right}
            said = [messages[origin] for origin in authors if origin >= 0]
            if said and len(said) == len(authors) and all(message.get("role") == "assistant" for message in said):
                if not any(said_as in _text_of(message.get("tool_calls")) for message in said):
                    continue
                called = called or _follow_calls(template, messages, tools)
                if called is None or called.text != whole.text:
                    return None
                if not any(left < end and start < right and origin == TOOLS for left, right, origin in called.blocks):
                    continue
            elif LOST in authors and not any(said_as in _text_of(part) for part in _foreign_parts(messages, tools)):
                continue
        elif own.strip("\0"):
            return None  # half of it is the template's
        if spelled and start < spelled[-1][1]:  # inside one that is made of more text
            start, end = spelled[-1][0], max(end, spelled.pop()[1])
        spelled.append((start, end))
    for start, end, _ in rewritten if spelled else ():
        if not any(left <= start and end <= right for left, right in spelled):
            return None  # a true token in a stretch that is encoded as text
    if whole.lost:
        lost = [(start, end) for start, end, origin in whole.blocks if origin == LOST]
        if any(start < right and left < end for start, end in spelled for left, right in lost):
            return None
    return tuple(spelled)


def _follow_calls(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None
) -> Trace | None:
    """Return the conversation traced with its tool calls told apart from what else their messages say."""
    given = [
        {key: trace(value, TOOLS) if key == "tool_calls" else value for key, value in message.items()}
        for message in messages
    ]
    try:
        return read_trace(render_traced(template.tokenizer, given, tools, template.kwargs))
    except Exception:  # a template is somebody else's program: it may raise anything
        return None


def _foreign_parts(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> list[Any]:
    """Return all that is said in a conversation by others than the assistant, or to them."""
    return [
        tools,
        *(message for message in messages if message.get("role") != "assistant"),
        *(message.get("tool_calls") for message in messages),
    ]


def _text_of(value: Any) -> str:
    """Return all texts inside a value, keys included, apart from each other."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    return "\0".join(map(_text_of, value)) if isinstance(value, (list, tuple)) else ""


def _require_roles(messages: Sequence[Mapping[str, Any]], controls: tuple[str, ...]) -> None:
    opening = common_prefix(controls)
    for index, message in enumerate(messages):
        role = str(message.get("role"))
        if opening in role and find_control_text(role, controls):
            raise PadfixError(
                f"The role of message {index} spells a control token ({message.get('role')!r}), which the template "
                "would write into its header. Use a role that the template knows: system, user, assistant, tool."
            )


def _find_losses(messages: Sequence[Mapping[str, Any]], rendered: Rendered) -> tuple[str, ...]:
    """Return what the template, without a word, left out of the turns or wrote as Python code."""
    losses: list[str] = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list) and str(content) in rendered.text:
            losses.append(
                f"The chat template knows no text parts and writes those of message {index} as Python code. "
                "Join them: message['content'] = ''.join(part['text'] for part in message['content'])"
            )
    turns: dict[int, str] = {}
    for turn in rendered.turns:
        turns[turn.message] = turns.get(turn.message, "") + rendered.text[turn.start : turn.end]
    for index, text in turns.items():
        for call in messages[index].get("tool_calls") or ():
            function = call.get("function", call) if isinstance(call, Mapping) else {}
            name = function.get("name") if isinstance(function, Mapping) else None
            if isinstance(name, str) and name.isascii() and name not in text:
                losses.append(
                    f"The chat template leaves out the tool call {name!r} of message {index}. "
                    "Use a template that writes tool calls, or write the call into the message's content."
                )
        if rendered.written is not None and index not in rendered.written and _has_text(messages[index]):
            losses.append(
                f"The chat template writes none of the text of message {index}. Use content of the kind that it "
                "reads: a text, or a list of parts [{'type': 'text', 'text': ...}]"
            )
    return tuple(losses)


def _has_text(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    if not isinstance(content, str):
        return False
    return bool(content.rpartition("</think>")[2].strip())  # a thought may be left out of the history
