"""The records of a rendered conversation, and the slow way to its turns: rendering every prefix.

Text that a message spells like a control token is kept apart before rendering: each such occurrence is rendered
as one private-use character that the conversation does not hold, and put back afterwards.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llama_padfix.chat.render import ChatTemplate, Rendered, Turn, refuse, render_text
from llama_padfix.core.errors import PadfixError
from llama_padfix.tokens.control import find_control_text

__all__ = ["render_by_prefixes"]

# Plane 15 is for private use: no template and no tokenizer gives these characters a meaning.
_STAND_INS = range(0xF0000, 0xFFFFE)


def render_by_prefixes(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    wanted: Collection[int],
    text: str,
) -> Rendered:
    """Return the turns as the renderings of the conversation up to each of them show them, or raise."""
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
        for message in messages
    ]
    safe_tools = _stand_in(list(tools), foreign, originals, spare) if tools is not None else None
    safe_text = render_text(template, safe_messages, safe_tools) if originals else text
    turns = _find_by_prefixes(template, safe_messages, safe_tools, safe_text, wanted)
    if not originals:
        return Rendered(text, turns)
    rendered = _put_back(safe_text, turns, originals)
    if rendered.text != text:
        raise PadfixError(
            "A message spells a control token, and the template acts on that text, so it cannot be told from the "
            "template's own tokens. Remove the control token from the message's content."
        )
    return rendered


def _find_by_prefixes(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None,
    text: str,
    wanted: Collection[int],
) -> tuple[Turn, ...]:
    """Find the turns by rendering the conversation up to each of them: slow, and exact where prefixes agree."""
    facts, structure = template.facts, template.structure
    stop_token = structure.stops[0] if structure is not None and structure.stops else facts.stop_token
    turns: list[Turn] = []
    for index in sorted(wanted):
        if index == 0:
            raise refuse(index, "it is the first message, so there is no prompt to render before it")
        prompt = render_text(template, messages[:index], tools, add_generation_prompt=True)
        if not prompt.endswith(facts.header):
            prompt += facts.header  # the template ignores add_generation_prompt
        if not text.startswith(prompt):
            raise refuse(index, "the conversation up to it renders differently on its own")
        until = render_text(template, messages[: index + 1], tools)
        if facts.always_opens_turn:
            until = until.removesuffix(facts.header)
        if not text.startswith(until) or len(until) < len(prompt):
            raise refuse(index, "what follows it changes how it is rendered")
        length = _find_stop(until[len(prompt) :], stop_token, template.controls)
        turns.append(
            Turn(index, len(prompt), len(until) if length is None else len(prompt) + length, length is not None)
        )
        if len(turns) > 1 and turns[-2].end > turns[-1].start:
            raise refuse(index, "it overlaps the turn before it")
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
