"""Where each assistant turn begins and ends in a traced conversation.

A turn begins where the generation prompt ends and ends with its stop token. Both are looked for among the
characters that the template wrote, in the gap beside the characters of that message. The exact way asks the
template itself: the conversation up to the turn, rendered with a generation prompt, ends where the turn begins.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

from llama_padfix.chat.trace import (
    Render,
    Span,
    Structure,
    Trace,
    align,
    common_start,
    find_stop,
    is_prefix,
    pair_in_order,
)
from llama_padfix.tokens.control import find_control_text

__all__ = ["FOREIGN", "find_spans"]

FOREIGN = "it would hold what somebody else wrote"
_TWICE = "its text is written in two places"
_NO_TEXT = "the template writes none of its text"
_STOPS = "another turn ends in front of its text"
_FIRST = "it is the first message, so there is no prompt to render before it"
_OTHERWISE = "no header of the model stands before it, and the conversation up to it renders differently on its own"


def find_spans(
    whole: Trace, structure: Structure, spoken: Collection[int], wanted: Collection[int], render: Render
) -> list[Span]:
    """Return the spans of the wanted assistant messages in order; `spoken` are the indices of all of them.

    A message has several spans where something that the model did not say, such as a tool's answer, stands inside
    its turn, and none where the template leaves it out.
    """
    spans = [
        span
        for index in sorted(wanted)
        if index in spoken
        for span in _find_message(whole, structure, index, spoken, render)
    ]
    spans.sort(key=lambda span: span.start if not span.reason else -1)
    for place, (left, right) in enumerate(pairwise(spans)):
        if left.start <= right.start < left.end and not left.stops and not right.reason:
            spans[place] = replace(left, end=right.start)  # one turn goes on with the next message
        elif right.start < left.end:
            spans[place + 1] = Span(right.message, reason="it overlaps the turn before it")
    return [_check_authors(whole, span) for span in spans if span.reason or span.start < span.end]


def _check_authors(whole: Trace, span: Span) -> Span:
    """Return the span if nobody but the template and its message wrote in it, or else why it is refused."""
    foreign = any(
        origin != span.message and max(start, span.start) < min(end, span.end) for start, end, origin in whole.blocks
    )
    return Span(span.message, reason=FOREIGN) if foreign else span


def _find_message(
    whole: Trace, structure: Structure, index: int, spoken: Collection[int], render: Render
) -> list[Span]:
    segments = _find_segments(whole, structure, index, render)
    if segments is None:
        return [Span(index, reason=_TWICE)]
    if not segments:
        span = _find_silent(whole, structure, index, spoken, render)
        return [] if span is None else [span]
    spans: list[Span] = []
    for first, last in segments:
        before = whole.blocks[first - 1][1] if first else 0
        seen = 1 + max((origin for _, _, origin in whole.blocks[:first]), default=0) if spans else index
        if spans:
            start = _find_resumed(whole, index, seen, before, whole.blocks[first][0], render)
        else:
            start = _find_start(whole, structure, index, first, last, spoken, render)
        if start is None:
            return [Span(index, reason=_FIRST if index == 0 else _OTHERWISE)]
        if find_control_text(whole.own[start : whole.blocks[first][0]], structure.stops):
            return [Span(index, reason=_STOPS)]
        after = whole.blocks[last + 1][0] if last + 1 < len(whole.blocks) else len(whole.text)
        end, stops = _find_end(whole, structure, max(seen, index + 1), whole.blocks[last][1], after, render)
        spans.append(Span(index, start, end, stops))
    return spans


def _find_segments(whole: Trace, structure: Structure, index: int, render: Render) -> list[tuple[int, int]] | None:
    """Return (first, last) of the blocks of each part of a message's turn; None where that cannot be told.

    Later messages may repeat a part of it (the name of the tool that it called). What the message says is what it
    says when it is the last one, in the same order.
    """
    blocks = whole.blocks
    own = [place for place, block in enumerate(blocks) if block[2] == index]
    if not own:
        return []
    gaps = [whole.own[blocks[place][1] : blocks[place + 1][0]] for place in range(own[0], own[-1])]
    joined = own[-1] - own[0] == len(own) - 1
    if joined and not any(find_control_text(gap, structure.stops) for gap in gaps):
        return [(own[0], own[-1])]
    alone = render(index + 1, False)
    if alone is None:
        return None
    said = [alone.text[start:end].strip() for start, end, origin in alone.blocks if origin == index]
    texts = [whole.text[blocks[place][0] : blocks[place][1]].strip() for place in own]
    found = pair_in_order(said, texts)
    if any(text and text in said and text not in {texts[one] for one in found} for text in texts):
        return None
    kept = [own[place] for place in sorted(found)]
    if own[0] not in kept:  # the history writes its beginning in another way
        run = own[0]
        while run + 1 in own and not find_control_text(gaps[run - own[0]], structure.stops):
            run += 1
        kept = sorted({*range(own[0], run + 1), *kept})
    segments: list[tuple[int, int]] = []
    for place in kept:
        if segments and not _is_parted(whole, structure, index, segments[-1][1], place, kept):
            segments[-1] = (segments[-1][0], place)
        else:
            segments.append((place, place))
    return segments


def _is_parted(whole: Trace, structure: Structure, index: int, left: int, right: int, kept: Sequence[int]) -> bool:
    """Tell whether something that the model did not say stands between two blocks of its message."""
    between = whole.blocks[left + 1 : right]
    if any(origin != index for _, _, origin in between):
        return True
    repeated = any(place not in kept for place in range(left + 1, right))
    gap = whole.own[whole.blocks[left][1] : whole.blocks[right][0]]
    return repeated and bool(find_control_text(gap, structure.stops))


def _find_start(
    whole: Trace,
    structure: Structure,
    index: int,
    first: int,
    last: int,
    spoken: Collection[int],
    render: Render,
) -> int | None:
    """Return where the turn begins: in front of its first block, or in it where the prompt supplies what it says."""
    before = whole.blocks[first - 1][1] if first else 0
    begin, end = whole.blocks[first][0], whole.blocks[last][1]
    start = _find_prompt_end(whole, structure, index, before, begin, end, render)
    if start is None:
        start = _find_headless(whole, structure, index, first, spoken, render)
    if start is None or start > begin or not structure.header:
        return start
    again = whole.own[start:begin].rfind(structure.header)
    if again < 0:
        return start
    # A header that the prompt leaves out is a header all the same.
    return _skip_header(whole, structure, start + again, begin, whole.blocks[last][1])


def _find_prompt_end(
    whole: Trace, structure: Structure, index: int, before: int, begin: int, end: int, render: Render
) -> int | None:
    gap = whole.own[before:begin]
    if structure.steady and structure.prompt and gap.count(structure.prompt) == 1:
        return before + gap.index(structure.prompt) + len(structure.prompt)
    prompt = render(index, True) if index else None
    if prompt is not None:
        if begin >= len(prompt.text) and is_prefix(prompt, whole):
            return _after_header(whole, structure, len(prompt.text), begin)
        # The history differs from the prompt somewhere: the template's own characters at the seam still tell.
        seam = prompt.own[prompt.blocks[-1][1] if prompt.blocks else 0 :]
        shared = common_start(seam, gap)
        if shared == len(gap):  # the turn goes on without a header, or its text begins with what the prompt opens
            return begin + _count_supplied(whole, structure, seam[shared:], begin, end)
        if shared == len(seam) and seam:
            return _after_header(whole, structure, before + shared, begin)
        if structure.header and structure.header in seam[:shared]:
            return before + shared
    many = gap.count(structure.header) if structure.header else 0
    if many == 1 or (many and structure.prompt_has_control):  # messages without text may stand before it
        at = before + gap.rindex(structure.header)
        return _skip_header(whole, structure, at, begin, end)
    if prompt is not None:
        # White space may stand elsewhere in the history than in the prompt.
        like = align(seam, gap)
        if like is not None and (not seam[like[0] :].strip() or not gap[like[1] :].strip()):
            return before + like[1]
    return None


def _count_supplied(whole: Trace, structure: Structure, rest: str, begin: int, end: int) -> int:
    """Return how many characters of a message the prompt supplies already, such as an opened thought."""
    found = find_control_text(rest, structure.controls)
    rest = rest[: found[0][0]] if found else rest  # spelled by a message it is no control token
    return common_start(rest, whole.text[begin:end])


def _find_headless(
    whole: Trace, structure: Structure, index: int, first: int, spoken: Collection[int], render: Render
) -> int | None:
    """Return where a turn begins whose header the template leaves out."""
    before = whole.blocks[first - 1][1] if first else 0
    gap = whole.own[before : whole.blocks[first][0]]
    controls = find_control_text(gap, structure.controls)
    if index == 0:
        opening = whole.own[: whole.blocks[first][0]]
        header = structure.header.strip()
        if header and opening.count(header) == 1:  # what parts it from a message before it is not there
            return opening.index(header) + len(header)
        bare = opening.removeprefix(structure.bos)
        return None if bare.strip() else len(opening) - len(bare)
    opens = find_control_text(structure.prompt or structure.header, structure.controls)
    opening = opens[0][2] if opens else structure.header
    if not opening:
        return None
    parted = opening in gap or {token for _, _, token in controls} & {*structure.stops}
    if first and whole.blocks[first - 1][2] in spoken and not parted:
        return before  # two messages in one turn
    asked = render(index, False)
    if asked is not None and opening not in gap and before <= len(asked.text) and is_prefix(asked, whole):
        return len(asked.text)
    return None


def _find_resumed(whole: Trace, index: int, seen: int, before: int, begin: int, render: Render) -> int | None:
    """Return where a message's turn goes on behind what the messages before `seen` said."""
    prompt = render(seen, True, index)
    if prompt is None:
        return None
    if before <= len(prompt.text) <= begin and is_prefix(prompt, whole):
        return len(prompt.text)
    said = max((end for _, end, origin in prompt.blocks if origin != index), default=0)
    seam = prompt.own[said:]
    return before + len(seam) if seam and whole.own[before:begin].startswith(seam) else None


def _skip_header(whole: Trace, structure: Structure, at: int, begin: int, end: int) -> int:
    """Return where the turn begins whose header stands at `at`."""
    shared = common_start(structure.prompt, whole.own[at:begin])
    if at + shared == begin:
        return begin + _count_supplied(whole, structure, structure.prompt[shared:], begin, end)
    return at + max(len(structure.header), shared)


def _after_header(whole: Trace, structure: Structure, start: int, first: int) -> int:
    """Step over the header of a template that ignores the wish for a generation prompt."""
    ignored = structure.ignores_prompt and bool(structure.header) and not structure.opens_always
    found = ignored and whole.own[start:first].startswith(structure.header)
    return start + len(structure.header) if found else start


def _find_end(
    whole: Trace, structure: Structure, count: int, last: int, after: int, render: Render
) -> tuple[int, bool]:
    """Return where the turn ends, between its own last character and the next block's first; and if it stops.

    `count` messages are all that the template needs to write it to its end.
    """
    gap = whole.own[last:after]
    if structure.steady and structure.ending:
        found = find_control_text(gap, structure.controls)
        if gap.startswith(structure.ending) or (found and found[0][2] in structure.stops):
            return last + max(found[0][1], len(structure.ending) * gap.startswith(structure.ending)), True
    alone = render(count, False)
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


def _find_silent(
    whole: Trace, structure: Structure, index: int, spoken: Collection[int], render: Render
) -> Span | None:
    """Find the turn of a message of which not one character was written; None where the template leaves it out."""
    asked = render(index, False) if index else None
    until = render(index + 1, False)
    if whole.lost or until is None or (index and asked is None):
        return Span(index, reason=_NO_TEXT)
    if asked is not None and asked.text == until.text:
        return None
    prompt = render(index, True) if index else None
    if prompt is not None and asked is not None and is_prefix(asked, until) and is_prefix(asked, prompt):
        turn = until.own[len(asked.text) :]
        opened = common_start(prompt.own[len(asked.text) :], turn)
        if any(char.isalnum() for char in turn[:opened]) or len(prompt.text) == len(asked.text) + opened:
            start = _after_header(whole, structure, len(asked.text) + opened, len(until.text))
            span = _close_silent(structure, index, start, until.own[start:])
            if whole.text[: span.end] == until.text[: span.end] and whole.own[: span.end] == until.own[: span.end]:
                return span
    return _find_silent_by_header(whole, structure, index, spoken)


def _find_silent_by_header(whole: Trace, structure: Structure, index: int, spoken: Collection[int]) -> Span:
    """Find the turn by its header, where each turn between the characters of its neighbours has one of its own."""
    refusal = Span(index, reason=_NO_TEXT)
    if not structure.header or not structure.stops:
        return refusal
    before, left = max(((end, origin) for _, end, origin in whole.blocks if origin < index), default=(0, -1))
    after, right = min(
        ((start, origin) for start, _, origin in whole.blocks if origin > index), default=(len(whole.text), -1)
    )
    gap = whole.own[before:after]
    last = right if right >= 0 else max(spoken)
    silent = [other for other in sorted(spoken) if left < other <= last and other != right]
    headers = gap.count(structure.header)
    if headers != len(silent) + (right in spoken):
        return refusal
    at = 0
    for _ in range(silent.index(index)):
        at = gap.index(structure.header, at) + len(structure.header)
    at = gap.index(structure.header, at)
    own = gap[at:]
    skip = max(len(structure.header), common_start(structure.prompt, own))
    following = own.find(structure.header, skip)
    found = find_control_text(own[skip : following if following >= 0 else len(own)], structure.stops)
    start = before + at + skip
    return Span(index, start, start + found[0][1], True) if found else refusal


def _close_silent(structure: Structure, index: int, start: int, tail: str) -> Span:
    if structure.opens_always:
        tail = tail.removesuffix(structure.prompt)
    stop = find_stop(tail, structure)
    return Span(index, start, start + (len(tail) if stop is None else stop), stop is not None)
