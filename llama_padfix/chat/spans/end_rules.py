"""The rules that find where a turn ends, strongest evidence first; they work as those of `start_rules`."""

from __future__ import annotations

from collections.abc import Callable

from llama_padfix.chat.profile.template_profile import find_stop
from llama_padfix.chat.spans.parts import Part
from llama_padfix.chat.tag_pairs import is_closing
from llama_padfix.chat.trace import common_start
from llama_padfix.tokens.control import find_control_text

EndRule = Callable[[Part], "int | None"]


def _at_constant_ending(part: Part) -> int | None:
    r"""End behind the ending that every answer has: ChatML, `Hello<|im_end|>`, without the line break behind it."""
    profile = part.profile
    if not (profile.prompt_is_constant and profile.ending):
        return None
    found = find_control_text(part.gap_behind, profile.controls)
    is_whole = part.gap_behind.startswith(profile.ending)
    if not is_whole and not (found and found[0][2] in profile.stops):
        return None
    return part.end + max(found[0][1], len(profile.ending) * is_whole)


def _at_stop_of_history(part: Part) -> int | None:
    r"""End behind the first token that is known to end turns, whichever it is: gpt-oss.

    Last:    `<|channel|>final<|message|>Hello<|return|>`
    History: `<|channel|>final<|message|>Hello<|end|><|start|>user`
    """
    stops = part.profile.stops
    found = [one for one in find_control_text(part.gap_behind, part.profile.controls) if one[2] in stops]
    if found and part.silent_behind and _opens_another(part, part.gap_behind[: found[0][0]]):
        return None  # it ends the turn of another message
    return part.end + found[0][1] if found else None


def _opens_another(part: Part, text: str) -> bool:
    r"""Return True if a text behind the part holds the header of another message, which is silent.

    The header of an answer is the part's own where no silent answer follows: `<D><S>assistant<C>final<M>`.
    """
    if not any(place in part.conversation.assistant_indices for place in part.silent_behind):
        text = text.replace(part.profile.history_header, "", 1)
    return part.profile.find_header(text) is not None


def _at_ending_alone(part: Part) -> int | None:
    r"""End behind the stop token that the turn has when nothing follows, one that other turns lack."""
    stop = find_stop(part.tail, part.profile)
    closing = part.profile.closing
    if stop is not None and closing and (closing in part.tail[stop:] or part.gap_behind.startswith(closing, stop)):
        return None  # the end of a call, and the turn is closed by text
    if stop is None or not part.gap_behind.startswith(part.tail[:stop]):
        return None
    token = find_control_text(part.tail[:stop], part.profile.controls)[-1][2]
    if token not in part.profile.stops and is_closing(token):
        return None  # the end of a block
    known = find_control_text(part.gap_behind, part.profile.stops)
    if known and stop <= known[0][0]:  # the last token of a turn that is closed only where something follows
        return None
    return part.end + stop


END_RULES: tuple[EndRule, ...] = (_at_constant_ending, _at_stop_of_history, _at_ending_alone)


def find_end(part: Part) -> tuple[int, bool] | None:
    """Return where the turn ends, between the part's last character and the next content; and if it stops.

    A turn without a stop token ends where what follows it alone and in the conversation differ: `[assistant] Hi\n`.
    None where nothing shows the end.
    """
    if part.result is not None:
        own = part.gap_behind.rstrip()
        return part.end + len(own), own.endswith(part.profile.controls)
    for rule in END_RULES:
        place = rule(part)
        if place is not None:
            return place, True
    if part.is_left_out_alone:
        return _find_end_in_history(part)
    closing, length = part.profile.closing, common_start(part.tail, part.gap_behind)
    if part.profile.last_ending and part.profile.last_ending in part.tail:
        length = min(length, part.tail.rindex(part.profile.last_ending))  # white space in front of a stop token
    is_closed = closing and closing not in part.tail[:length] and part.gap_behind.startswith(closing, length)
    return part.end + length + len(closing) * bool(is_closed), False


def _find_end_in_history(part: Part) -> tuple[int, bool] | None:
    r"""Return where a turn ends that the template leaves out when nothing follows: by what follows any answer.

    `<think>\nhm\n</think>\n\n<user>\nMore`, of a message that holds a thought and no text
                              ^
    """
    closing, profile, gap = part.profile.behind_answer, part.profile, part.gap_behind
    if closing is None:
        return None
    if closing.strip():
        at = gap.find(closing)
        return None if at < 0 or profile.find_header(gap[:at]) is not None else (part.end + at + len(closing), False)
    following = profile.find_header(gap)
    is_known = following is not None and gap[:following].endswith(closing)
    return (part.end + len(gap[:following].removesuffix(closing)), False) if is_known else None
