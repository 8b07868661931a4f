"""The third strategy of `turns`: the conversation up to each turn, rendered. Slow, and exact where prefixes agree.

Text that a message spells like a control token is kept apart before rendering: each such occurrence is rendered
as one private-use character that the conversation does not hold, and put back afterwards.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.render import ChatTemplate, Rendered, RenderRequest, Turn, render_text
from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.control import find_control_text

if TYPE_CHECKING:
    from llama_padfix.core.types import Messages, Tool

# Plane 15 is for private use: no template and no tokenizer gives these characters a meaning.
_STAND_INS = range(0xF0000, 0xFFFFE)


def find_by_prefixes(request: RenderRequest) -> Rendered | None:
    """Return the turns as the renderings of the conversation up to each of them show them; None where they differ.

    Raises:
        PadfixError: A text that is normalized to a control token: prefixes do not show who wrote it.
    """
    if request.rewritten:
        start, end, token = request.rewritten[0]
        raise PadfixError(
            f"The text {request.text[start:end]!r} becomes the control token {token!r} when it is normalized, and the "
            "template does not show who wrote it. Remove it from the message's content."
        )
    if request.template.profile.error is None:
        with contextlib.suppress(PadfixError):  # a template may refuse a part of a conversation
            return render_by_prefixes(request)
    return None


def render_by_prefixes(request: RenderRequest) -> Rendered | None:
    """Return the turns, rendered with a stand-in for each spelled control token; None where they differ.

    Raises:
        PadfixError: The template refuses a part of the conversation.
    """
    template, tools, text = request.template, request.tools, request.text
    spare = _spare_characters(text)
    originals: dict[str, str] = {}
    foreign = template.controls + template.tags
    safe_messages = [
        {
            key: _stand_in(
                value,
                template.controls if message.get("role") == "assistant" and key != "tool_calls" else foreign,
                originals,
                spare,
            )
            for key, value in message.items()
        }
        for message in request.messages
    ]
    safe_tools = _stand_in(list(tools), foreign, originals, spare) if tools is not None else None
    safe_text = render_text(template, safe_messages, safe_tools) if originals else text
    turns = _find_turns(template, safe_messages, safe_tools, safe_text, request.trained_indices)
    if turns is None or not _is_of_template(template, safe_messages, safe_tools, safe_text):
        return None
    rendered = _put_back(safe_text, turns, originals) if originals else Rendered(text, turns)
    return rendered if rendered.text == text else None


def _is_of_template(template: ChatTemplate, messages: Messages, tools: Sequence[Tool] | None, safe_text: str) -> bool:
    """Return True if other texts bring the same control tokens: the template makes none of a message's text."""
    neutral = [
        {key: value if key == "role" else _neutralize(value) for key, value in message.items()} for message in messages
    ]
    text = render_text(template, neutral, tools)
    mine, other = (find_control_text(one, template.controls) for one in (safe_text, text))
    return [token for _, _, token in mine] == [token for _, _, token in other]


def _neutralize(value: object) -> object:
    """Return a value with a letter in place of each text that is not white space."""
    if isinstance(value, str):
        return "x" if value.strip() else value
    if isinstance(value, Mapping):
        return {key: _neutralize(item) for key, item in value.items()}
    return [_neutralize(item) for item in value] if isinstance(value, (list, tuple)) else value


def _find_turns(
    template: ChatTemplate,
    messages: Messages,
    tools: Sequence[Tool] | None,
    text: str,
    trained_indices: Collection[int],
) -> tuple[Turn, ...] | None:
    """Return the turns where each prefix of the conversation is how the whole of it begins, else None."""
    profile = template.profile
    stop_token = profile.stops[0] if profile.stops else profile.stop_token
    turns: list[Turn] = []
    for index in sorted(trained_indices):
        if index == 0:
            return None  # there is no prompt to render before it
        prompt = render_text(template, messages[:index], tools, add_generation_prompt=True)
        if not prompt.endswith(profile.header):
            prompt += profile.header  # the template ignores add_generation_prompt
        until = render_text(template, messages[: index + 1], tools)
        if profile.always_adds_prompt:
            until = until.removesuffix(profile.header)
        if not (text.startswith(prompt) and text.startswith(until)) or len(until) < len(prompt):
            return None
        length = _find_stop(until[len(prompt) :], stop_token, template.controls)
        end = len(until) if length is None else len(prompt) + length
        if turns and turns[-1].end > len(prompt):
            return None
        turns.append(Turn(index, len(prompt), end, length is not None))
    return tuple(turns)


def _find_stop(text: str, stop_token: str | None, controls: tuple[str, ...]) -> int | None:
    """Return where the stop token of a turn ends; None where the turn does not end in a control token.

    Of several at the end it is the first `stop_token`: what stands behind it is not the model's to produce.
    """
    ends: list[tuple[int, str]] = []
    limit = len(text)
    for start, end, token in reversed(find_control_text(text, controls)):
        if text[end:limit].strip():
            break
        ends.append((end, token))
        limit = start
    stops = [end for end, token in ends if token == stop_token]
    return stops[-1] if stops else ends[0][0] if ends else None


def _spare_characters(text: str) -> Iterator[str]:
    taken = set(text)
    return (char for char in map(chr, _STAND_INS) if char not in taken)


# It returns what it is given, so that a mapping of any values stays one.
def _stand_in(value: Any, controls: tuple[str, ...], originals: dict[str, str], spare: Iterator[str]) -> Any:
    """Return a copy of a message in which one spare character stands for each spelled control token.

    `originals` collects which character stands for which token.
    """
    if isinstance(value, str):
        pieces, last = [], 0
        for start, end, token in find_control_text(value, controls):
            char = next(spare, None)
            if char is None:
                raise PadfixError(f"A conversation spells more than {len(originals)} control tokens. Split it.")
            originals[char] = token
            pieces += [value[last:start], char]
            last = end
        return "".join([*pieces, value[last:]]) if last else value
    if isinstance(value, Mapping):
        return {
            _stand_in(key, controls, originals, spare): _stand_in(item, controls, originals, spare)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_stand_in(item, controls, originals, spare) for item in value]
    return value


def _put_back(text: str, turns: Sequence[Turn], originals: Mapping[str, str]) -> Rendered:
    """Return the text with the spelled control tokens in their places, and the turns moved accordingly."""
    pieces: list[str] = []
    spelled: list[tuple[int, int]] = []
    at: list[int] = []  # where in `text` a stand-in is
    gained = [0]  # how many characters longer the text has become after each of them
    for position, char in enumerate(text):
        token = originals.get(char)
        if token is not None:
            spelled.append((position + gained[-1], position + gained[-1] + len(token)))
            at.append(position)
            gained.append(gained[-1] + len(token) - 1)
        pieces.append(char if token is None else token)

    def moved(position: int) -> int:
        return position + gained[bisect_left(at, position)]

    return Rendered(
        "".join(pieces),
        tuple(Turn(turn.message, moved(turn.start), moved(turn.end), turn.stops) for turn in turns),
        tuple(spelled),
    )
