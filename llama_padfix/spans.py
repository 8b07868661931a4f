"""Where each assistant turn begins and ends in a traced conversation.

A turn begins where the generation prompt ends and ends with its stop token. Both are looked for among the
characters that the template wrote, in the gap beside the characters of that message. The exact way asks the
template itself: the conversation up to the turn, rendered with a generation prompt, ends where the turn begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from llama_padfix.observe import find_control_text
from llama_padfix.provenance import CLOSES, LOST, OPENS, TEMPLATE, Traced

__all__ = ["Span", "Structure", "Trace", "common_start", "find_spans", "read_trace"]

# A tag, a bracketed word, a word, or one character: a prompt is compared with the history by whole pieces.
_PIECES = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,30}\]|\w+|\s|.", re.DOTALL)


@dataclass(frozen=True)
class Trace:
    """A rendered conversation: `own` is its text with every character that a message or a tool wrote blanked.

    `blocks` are (start, end, origin) of what the template did not write, in order; one without width marks an
    empty text. `generation` are the spans of `{% generation %}`.
    """

    text: str
    own: str
    blocks: tuple[tuple[int, int, int], ...]
    generation: tuple[tuple[int, int], ...]
    lost: bool


@dataclass(frozen=True)
class Structure:
    """What was learned about a template by rendering probes.

    `prompt` is the generation prompt after a question, and `steady` when nothing in a conversation can change it.
    `header` is the part of it, or of what stands before an answer, that the history repeats. `ending` is what
    follows a plain last answer, up to and including its stop token; `stops` are all tokens seen to end a turn.
    """

    prompt: str
    steady: bool
    header: str
    ending: str
    stops: tuple[str, ...]
    controls: tuple[str, ...]
    opens_always: bool
    ignores_prompt: bool
    prompt_has_control: bool = False


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` that the model produces for a message; `reason` where that cannot be proven."""

    message: int
    start: int = 0
    end: int = 0
    stops: bool = False
    reason: str = ""


Render = Callable[[int, bool], Trace | None]
"""Render the first messages of the conversation, with or without a generation prompt; None where that fails."""


def read_trace(traced: Traced) -> Trace:
    """Return a traced text in the form in which turns are looked for."""
    own: list[str] = []
    blocks: list[tuple[int, int, int]] = []
    generation: list[tuple[int, int]] = []
    opened: list[int] = []
    lost = False
    position = 0
    text = "".join((traced, ""))  # a plain copy
    for length, origin in traced._runs:
        end = position + length
        if origin == TEMPLATE:
            own.append(text[position:end])
        elif origin == OPENS:
            opened.append(position)
        elif origin == CLOSES:
            if opened:
                generation.append((opened.pop(), position))
        else:
            own.append("\0" * length)
            lost = lost or (origin == LOST and length > 0)
            if blocks and blocks[-1][1:] == (position, origin):
                blocks[-1] = (blocks[-1][0], end, origin)
            else:
                blocks.append((position, end, origin))
        position = end
    return Trace(text, "".join(own), tuple(blocks), tuple(generation), lost)


def find_spans(
    whole: Trace, structure: Structure, spoken: Mapping[int, bool], wanted: Collection[int], render: Render
) -> list[Span]:
    """Return the span of each wanted assistant message, `spoken` telling of all of them, in order, if they hold text.

    A message that the template leaves out has no span.
    """
    spans: list[Span] = []
    for index in spoken:
        if index not in wanted:
            continue
        span = _find_span(whole, structure, index, spoken[index], render)
        if span is None:
            continue
        if spans and span.start < spans[-1].end and not span.reason:
            span = Span(index, reason="it overlaps the turn before it")
        spans.append(span)
    return spans


def _find_span(whole: Trace, structure: Structure, index: int, has_text: bool, render: Render) -> Span | None:
    own = [place for place, block in enumerate(whole.blocks) if block[2] == index]
    if not own:
        return _find_silent(whole, structure, index, has_text, render)
    first = own[0]
    last = _find_last(whole, structure, index, first, render)
    if last is None:
        return Span(index, reason="its text is written in two places")
    before = whole.blocks[first - 1][1] if first else 0
    start = _find_start(whole, structure, index, before, whole.blocks[first][0], render)
    if start is None:
        return Span(index, reason=_why_no_start(index))
    after = whole.blocks[last + 1][0] if last + 1 < len(whole.blocks) else len(whole.text)
    end, stops = _find_end(whole, structure, index, whole.blocks[last][1], after, render)
    return Span(index, start, end, stops)


def _find_last(whole: Trace, structure: Structure, index: int, first: int, render: Render) -> int | None:
    """Return the last block of a message's turn, the first being known.

    Later messages may repeat a part of it (the name of the tool that it called), behind its stop token. None where
    a part of the turn itself stands elsewhere.
    """
    blocks = whole.blocks
    run = first
    while run + 1 < len(blocks) and blocks[run + 1][2] == index:
        run += 1
    cuts = [
        place
        for place in range(first, run)
        if find_control_text(whole.own[blocks[place][1] : blocks[place + 1][0]], structure.stops)
    ]
    outside = {whole.text[start:end].strip() for start, end, origin in blocks[run + 1 :] if origin == index} - {""}
    if not cuts and not outside:
        return run
    alone = render(index + 1, False)
    if alone is None:
        return None
    mine = [block for block in alone.blocks if block[2] == index]
    if cuts:
        stopped = mine and find_control_text(alone.own[mine[0][0] : mine[-1][1]], structure.stops)
        ends = [place for place in (*cuts, run) if not stopped or _says(whole, blocks[place], alone, mine[-1])]
        if not ends:
            return None
        run = ends[0]
        outside |= {whole.text[start:end].strip() for start, end, origin in blocks[run + 1 :] if origin == index} - {
            ""
        }
    said = {whole.text[start:end].strip() for start, end, _ in blocks[first : run + 1]}
    written = {alone.text[start:end].strip() for start, end, _ in mine}
    return None if (outside - said) & written else run


def _says(one: Trace, left: tuple[int, int, int], other: Trace, right: tuple[int, int, int]) -> bool:
    return one.text[left[0] : left[1]] == other.text[right[0] : right[1]]


def _why_no_start(index: int) -> str:
    if index == 0:
        return "it is the first message, so there is no prompt to render before it"
    return "the conversation up to it renders differently on its own"


def _find_start(whole: Trace, structure: Structure, index: int, before: int, first: int, render: Render) -> int | None:
    """Return where the turn begins, between the characters of the messages before it and its own first one."""
    start = _find_prompt_end(whole, structure, index, before, first, render)
    again = structure.header and start is not None and whole.own[start:first].rfind(structure.header)
    if start is not None and isinstance(again, int) and again >= 0:
        return start + again + len(structure.header)  # a header that the prompt leaves out is a header all the same
    return start


def _find_prompt_end(
    whole: Trace, structure: Structure, index: int, before: int, first: int, render: Render
) -> int | None:
    gap = whole.own[before:first]
    if structure.steady and structure.prompt and gap.count(structure.prompt) == 1:
        return before + gap.index(structure.prompt) + len(structure.prompt)
    prompt = render(index, True) if index else None
    if prompt is not None:
        start = len(prompt.text)
        if start <= first and whole.own.startswith(prompt.own) and whole.text.startswith(prompt.text):
            return _after_header(whole, structure, start, first)
        # The history differs from the prompt somewhere: the template's own characters at the seam still tell.
        seam = prompt.own[prompt.blocks[-1][1] if prompt.blocks else 0 :]
        shared = common_start(seam, gap)
        if shared == len(gap):
            return first  # the turn goes on without a header
        if shared == len(seam) and seam:
            return _after_header(whole, structure, before + shared, first)
        if structure.header and structure.header in seam[:shared]:
            return before + shared
    if structure.header and gap.count(structure.header) == 1 and not structure.header.isspace():
        at = before + gap.index(structure.header)
        return at + max(len(structure.header), common_start(structure.prompt, whole.own[at:first]))
    return None


def _after_header(whole: Trace, structure: Structure, start: int, first: int) -> int:
    """Step over the header of a template that ignores the wish for a generation prompt."""
    ignored = structure.ignores_prompt and bool(structure.header) and not structure.opens_always
    found = ignored and whole.own[start:first].startswith(structure.header)
    return start + len(structure.header) if found else start


def _find_end(
    whole: Trace, structure: Structure, index: int, last: int, after: int, render: Render
) -> tuple[int, bool]:
    """Return where the turn ends, between its own last character and the next message's first; and if it stops."""
    gap = whole.own[last:after]
    if structure.steady and structure.ending and gap.startswith(structure.ending):
        return last + len(structure.ending), True
    alone = render(index + 1, False)
    tail = ""
    if alone is not None:
        tail = alone.own[alone.blocks[-1][1] if alone.blocks else 0 :]
        if structure.opens_always:
            tail = tail.removesuffix(structure.prompt)
        stop = find_stop(tail, structure)
        if stop is not None and gap.startswith(tail[:stop]):
            return last + stop, True
    # The next message ends the turn, or a last turn ends otherwise than one in the history.
    found = find_control_text(gap, structure.stops) if structure.stops else []
    if found:
        return last + found[0][1], True
    return last + common_start(tail, gap), False


def find_stop(tail: str, structure: Structure) -> int | None:
    """Return where the stop token ends in what follows a turn's last character; None where none does."""
    found = find_control_text(tail, structure.controls)
    if not found:
        return None
    known = [end for _, end, token in found if token in structure.stops]
    return known[0] if known else found[-1][1]


def _find_silent(whole: Trace, structure: Structure, index: int, has_text: bool, render: Render) -> Span | None:
    """Find the turn of a message of which not one character was written; None where the template leaves it out."""
    asked = render(index, False) if index else None
    until = render(index + 1, False)
    if until is None or (index and asked is None):
        return Span(index, reason="the template writes none of its text")
    if asked is not None and asked.text == until.text and not whole.lost:
        return None
    if has_text or whole.lost:
        return Span(index, reason="the template writes none of its text")
    prompt = render(index, True) if index else None
    if prompt is not None and _is_prefix(prompt, whole) and _is_prefix(until, whole) and _is_prefix(prompt, until):
        start = _after_header(whole, structure, len(prompt.text), len(until.text))
        return _close_silent(structure, index, start, whole.own[start : len(until.text)])
    # Between the characters of its neighbours there is one header, and it is the turn's.
    before = max((end for _, end, origin in whole.blocks if origin < index), default=0)
    after = min((start for start, _, origin in whole.blocks if origin > index), default=len(whole.text))
    tail = until.own[until.blocks[-1][1] if until.blocks else 0 :]
    gap = whole.own[before:after]
    if not structure.header or gap.count(structure.header) != 1 or tail.count(structure.header) != 1:
        return Span(index, reason="the template writes none of its text")
    own = tail[tail.index(structure.header) :]
    at = gap.index(structure.header)
    skip = max(len(structure.header), common_start(structure.prompt, own))
    found = _close_silent(structure, index, before + at + skip, own[skip:])
    if not gap.startswith(own[: found.end - before - at], at):
        return Span(index, reason="the template writes none of its text")
    return found


def _close_silent(structure: Structure, index: int, start: int, tail: str) -> Span:
    if structure.opens_always:
        tail = tail.removesuffix(structure.prompt)
    stop = find_stop(tail, structure)
    return Span(index, start, start + (len(tail) if stop is None else stop), stop is not None)


def _is_prefix(part: Trace, whole: Trace) -> bool:
    return whole.text.startswith(part.text) and whole.own.startswith(part.own)


def common_start(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common, in whole pieces."""
    length = 0
    for match in _PIECES.finditer(one):
        if not other.startswith(match.group(), length):
            break
        length = match.end()
    return length
