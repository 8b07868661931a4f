"""A conversation's turns: which characters of the rendered text the model itself must produce.

Text that a message spells like a control token is kept apart before rendering: each such occurrence is rendered
as one private-use character and put back afterwards. Whatever control token is left in the rendered text was
written by the template, so a header found there is a true header, and `<|eot_id|>` in a user's message stays text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_padfix.observe import find_control_text, observe_template, render, special_ids
from llama_padfix.records import PadfixError, TemplateFacts

__all__ = ["ChatTemplate", "Rendered", "Turn", "read_template", "render_turns"]

# Plane 15 is for private use: no template and no tokenizer gives these characters a meaning.
_FIRST_STAND_IN = 0xF0000
_STAND_INS = 0xFFFD


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template with what was learned about it; `kwargs` go to every rendering.

    `controls` are the contents of the special tokens, which encoding cuts out of a text wherever they stand.
    """

    tokenizer: Any = field(repr=False)
    facts: TemplateFacts
    controls: tuple[str, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """What the model produces in one assistant turn: characters `start` to `end` of the text, stop token included.

    `message` is the index of the message; `stops` is False where the template ends the turn without a stop token.
    """

    message: int
    start: int
    end: int
    stops: bool


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with its assistant turns in order.

    `spelled` holds (start, end) of every control token that is only spelled in the text of a message and must be
    encoded as text.
    """

    text: str
    turns: tuple[Turn, ...]
    spelled: tuple[tuple[int, int], ...] = ()


def read_template(tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> ChatTemplate:
    """Return the tokenizer's chat template, probed. Raises `PadfixError` when it has none or it cannot be read."""
    kwargs = dict(kwargs or {})
    facts = observe_template(tokenizer, kwargs)
    if facts is None:
        raise PadfixError(
            "The tokenizer has no chat template, so a conversation cannot be rendered. Give it the one of the model "
            "family: tokenizer.chat_template = AutoTokenizer.from_pretrained(instruct_model).chat_template"
        )
    if facts.error is not None:
        raise PadfixError(
            f"The chat template cannot be read: {facts.error}. Check it by hand: "
            "tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hi'}], tokenize=False)"
        )
    return ChatTemplate(tokenizer, facts, tuple(special_ids(tokenizer)), kwargs)


def render_turns(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
) -> Rendered:
    """Return the text of a conversation and the part of it that the model must produce, turn by turn.

    The text is that of `apply_chat_template(messages, tokenize=False)`. Raises `PadfixError` when the template
    refuses the conversation, or when where its turns begin and end cannot be proven.
    """
    originals: list[str] = []
    safe_messages = [_stand_in(message, template.controls, originals, keep=("role",)) for message in messages]
    safe_tools = _stand_in(list(tools), template.controls, originals) if tools is not None else None
    text = _render(template, safe_messages, safe_tools)
    turns = _find_by_header(template, safe_messages, text)
    if turns is None:
        turns = _find_by_prefixes(template, safe_messages, safe_tools, text)
    if not originals:
        return Rendered(text, turns)
    rendered = _put_back(text, turns, originals)
    if rendered.text != _render(template, messages, tools):
        raise PadfixError(
            "A message spells a control token, and the template acts on that text, so it cannot be told from the "
            "template's own tokens. Remove the control token from the message's content."
        )
    return rendered


def _find_by_header(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]], text: str
) -> tuple[Turn, ...] | None:
    """Find the turns by the template's own assistant headers; None where that proves nothing.

    Proof: the header holds a control token, which only the template can have written; there is one header for
    each assistant message (and at most one more, with nothing behind it); no span reaches into the next one, and
    each holds the content of its message.
    """
    facts = template.facts
    if not (facts.header_in_history and facts.header_has_control and facts.stop_token):
        return None
    starts = []
    position = text.find(facts.header)
    while position >= 0:
        starts.append(position + len(facts.header))
        position = text.find(facts.header, starts[-1])
    if starts and not text[starts[-1] :].strip():
        starts.pop()  # a generation prompt that the template appends to every conversation
    spoken = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    if len(starts) != len(spoken):
        return None
    turns = []
    for index, start, limit in zip(spoken, starts, [*starts[1:], len(text)], strict=True):
        stop = find_control_text(text[start:limit], (facts.stop_token, "<|eom_id|>"))
        if not stop:
            return None
        end = start + stop[0][1]
        content = messages[index].get("content")
        if isinstance(content, str) and content.strip() not in text[start:end]:
            return None
        turns.append(Turn(index, start, end, True))
    return tuple(turns)


def _find_by_prefixes(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, text: str
) -> tuple[Turn, ...]:
    """Find the turns by rendering the conversation up to each of them: slow, and exact where prefixes agree."""
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        if index == 0:
            raise _unproven(index, "it is the first message, so there is no prompt to render before it")
        prompt = _render(template, messages[:index], tools, add_generation_prompt=True)
        if not text.startswith(prompt):
            raise _unproven(index, "the conversation up to it renders differently on its own")
        until = _render(template, messages[: index + 1], tools)
        if template.facts.always_opens_turn and until.endswith(template.facts.header):
            until = until[: len(until) - len(template.facts.header)]
        if not text.startswith(until) or len(until) < len(prompt):
            raise _unproven(index, "what follows it changes how it is rendered")
        stops = find_control_text(until[len(prompt) :], template.controls)
        if stops and not until[len(prompt) + stops[-1][1] :].strip():
            turns.append(Turn(index, len(prompt), len(prompt) + stops[-1][1], True))
        else:
            turns.append(Turn(index, len(prompt), len(until), False))
        if len(turns) > 1 and turns[-2].end > turns[-1].start:
            raise _unproven(index, "it overlaps the turn before it")
    return tuple(turns)


def _unproven(index: int, reason: str) -> PadfixError:
    return PadfixError(
        f"Where the assistant turn of message {index} begins and ends cannot be proven: {reason}. "
        "Train on the last turn only, or split the conversation there."
    )


def _render(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    add_generation_prompt: bool = False,
) -> str:
    try:
        return render(
            template.tokenizer,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            template_kwargs=template.kwargs,
        )
    except PadfixError:
        raise
    except Exception as error:  # a template is somebody else's program: it may raise anything
        raise PadfixError(
            f"The chat template refuses the conversation: {type(error).__name__}: {error}. "
            "Change the conversation to what the template accepts, or drop the row: on_error='drop'"
        ) from error


def _stand_in(value: Any, controls: tuple[str, ...], originals: list[str], keep: Sequence[str] = ()) -> Any:
    """Return a copy of a message in which one private-use character stands for each spelled control token.

    `originals` collects what they stand for; the keys in `keep` are left as they are.
    """
    if isinstance(value, str):
        found = find_control_text(value, controls)
        if any(_FIRST_STAND_IN <= ord(char) < _FIRST_STAND_IN + _STAND_INS for char in value) and found:
            raise PadfixError(
                "A message holds both a control token as text and characters of the private plane 15, which stand "
                "in for it. Remove one of them from the message's content."
            )
        pieces, last = [], 0
        for start, end, token in found:
            if len(originals) >= _STAND_INS:
                raise PadfixError(f"A conversation spells more than {_STAND_INS} control tokens. Split it.")
            pieces += [value[last:start], chr(_FIRST_STAND_IN + len(originals))]
            originals.append(token)
            last = end
        return "".join([*pieces, value[last:]]) if found else value
    if isinstance(value, Mapping):
        return {key: item if key in keep else _stand_in(item, controls, originals) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_stand_in(item, controls, originals) for item in value]
    return value


def _put_back(text: str, turns: Sequence[Turn], originals: Sequence[str]) -> Rendered:
    """Return the text with the spelled control tokens in their places, and the turns moved accordingly."""
    pieces: list[str] = []
    spelled: list[tuple[int, int]] = []
    shift_at: list[tuple[int, int]] = []  # (position in `text`, characters gained up to and including it)
    last = gained = 0
    for position, char in enumerate(text):
        index = ord(char) - _FIRST_STAND_IN
        if 0 <= index < len(originals):
            pieces += [text[last:position], originals[index]]
            spelled.append((position + gained, position + gained + len(originals[index])))
            gained += len(originals[index]) - 1
            shift_at.append((position, gained))
            last = position + 1
    pieces.append(text[last:])

    def moved(position: int) -> int:
        return position + max((gain for at, gain in shift_at if at < position), default=0)

    return Rendered(
        "".join(pieces),
        tuple(Turn(turn.message, moved(turn.start), moved(turn.end), turn.stops) for turn in turns),
        tuple(spelled),
    )
