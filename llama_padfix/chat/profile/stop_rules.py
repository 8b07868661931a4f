"""The rules that read from traced probes which tokens end an answer; every rule adds its token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from llama_padfix.chat.profile.profile_rules import Evidence
from llama_padfix.chat.tag_pairs import TAG, cut_empty_block, is_pair
from llama_padfix.chat.trace import Trace, common_start, count_equal
from llama_padfix.tokens.control import find_control_text


@dataclass(frozen=True)
class AnswerEnd:
    """What the stop rules read beside the evidence."""

    evidence: Evidence
    tail: str
    """What follows a last answer, without a prompt that is always there."""
    shared: tuple[str, ...]
    """The control tokens between a question and the header of its answer, in order: they end turns of others too."""
    closers: tuple[str, ...]
    """The control tokens that end an answer in the history."""

    @property
    def last_stop(self) -> tuple[int, str] | None:
        """Where the stop token of a last answer ends in `tail`, and which it is."""
        return _choose(self.tail, self.shared, self.closers, self.evidence)


StopRule = Callable[[AnswerEnd, Sequence[str]], "str | None"]


def find_answer_end(evidence: Evidence, header: str) -> AnswerEnd:
    """Return what the stop rules read, for a template with this header."""
    probes, between = evidence.probes, evidence.probes.between
    asked_end = between[: max(between.find(header), 0)] if header else ""
    shared = tuple(token for _, _, token in find_control_text(asked_end, evidence.controls))
    longer = probes.asked_again
    closers = _find_closers(longer, shared, evidence.controls) if longer is not None else []
    return AnswerEnd(evidence, probes.answered.tail.removesuffix(evidence.added_prompt), shared, tuple(closers))


def _stop_of_last_answer(end: AnswerEnd, stops: Sequence[str]) -> str | None:
    r"""Add what ends the last answer: `Probeanswer<|eot_id|>` (Llama 3), `Probeanswer</s>` (Mistral)."""
    return end.last_stop[1] if end.last_stop else None


def _stop_of_history(end: AnswerEnd, stops: Sequence[str]) -> str | None:
    r"""Add what ends an answer in the history, where the last one ends otherwise: gpt-oss.

    Last:    `Probeanswer<|return|>`
    History: `Probeanswer<|end|><|start|>user`
    """
    known = {*end.shared[-1:], *stops, end.evidence.eos}
    return next((token for token in end.closers if token in known), end.closers[-1]) if end.closers else None


def _stop_of_tool_call(end: AnswerEnd, stops: Sequence[str]) -> str | None:
    r"""Add what ends a tool call: gpt-oss, `<|message|>{"at": "sky"}<|call|>`."""
    called = end.evidence.probes.called
    if called is None:
        return None
    found = _choose(called.tail.removesuffix(end.evidence.added_prompt), tuple(stops), (), end.evidence)
    opened = [tag.group() for tag in TAG.finditer(called.scaffold)]
    if found is None or any(is_pair(tag, found[1]) for tag in opened):  # the end of the call's block, not of the turn
        return None
    return found[1]


def _stop_of_answered_call(end: AnswerEnd, stops: Sequence[str]) -> str | None:
    r"""Add what ends a tool call that is answered, where a last call has no end: `</call><K>\n<S>tool\n`."""
    answered = end.evidence.probes.called_again
    if answered is None:
        return None
    after = answered.gap(1, 2)
    opened = [tag.group() for tag in TAG.finditer(answered.scaffold)]
    found = [one for one in find_control_text(after, end.evidence.controls) if not _is_paired(one[2], opened)]
    if not found or found[0][2] in (end.evidence.opener, *_question_openers(end)):
        return None
    if not _is_behind_call(end, found[0][2]) and (len(found) < 2 or after[found[0][1] : found[1][0]].strip()):
        return None
    if any(token in stops for _, _, token in found):
        return None
    return found[0][2]


def _question_openers(end: AnswerEnd) -> set[str]:
    r"""Return the tokens that open a question, which a result may open too: `</call>\n\n<U><result>`."""
    found = find_control_text(find_question_header(end), end.evidence.controls)
    return {token for _, _, token in found} - {*end.closers, *end.shared, end.evidence.eos}


def _is_behind_call(end: AnswerEnd, token: str) -> bool:
    """Return True if a token stands behind a call in front of a question too, and so is none that opens a result."""
    asked = end.evidence.probes.called_then_asked
    origins = {origin for _, _, origin in asked.content_spans} if asked is not None else set()
    return asked is not None and {1, 2} <= origins and token in asked.gap(1, 2)


def _is_paired(token: str, tags: Sequence[str]) -> bool:
    """Return True if a token opens or closes a block that some tags close or open."""
    return any(is_pair(tag, token) or is_pair(token, tag) for tag in tags)


def _stop_of_built_in_call(end: AnswerEnd, stops: Sequence[str]) -> str | None:
    r"""Add what ends a call of a built-in tool in Llama 3.1: `<|python_tag|>look.call(at="sky")<|eom_id|>`."""
    return "<|eom_id|>" if "<|eom_id|>" in end.evidence.controls else None


STOP_RULES: tuple[StopRule, ...] = (
    _stop_of_last_answer,
    _stop_of_history,
    _stop_of_tool_call,
    _stop_of_answered_call,
    _stop_of_built_in_call,
)


def find_stops(end: AnswerEnd, header: str) -> tuple[str, ...]:
    """Return all tokens seen to end a turn; what opens the header of an answer ends none."""
    stops: list[str] = []
    for rule in STOP_RULES:
        token = rule(end, stops)
        stops += [] if token is None else [token]
    openers = {token for _, _, token in find_control_text(header, end.evidence.controls)[:1]}
    return tuple(token for token in dict.fromkeys(stops) if token not in openers)


def find_behind_answer(end: AnswerEnd) -> str | None:
    """Return what stands between an answer of the history and what opens the question behind it; None if unknown."""
    probes = end.evidence.probes
    if probes.asked_again is None:
        return None
    closing, behind = end.evidence.closings[0], probes.asked_again.gap(1, 2)
    opening, *others = (one.scaffold[: one.content_spans[0][0]] for one in (probes.asked, *probes.before_question))
    own = opening[min((common_start(opening, other) for other in others), default=0) :]
    opening = end.evidence.cut_opening(own)
    is_hidden = opening.endswith(behind) and opening.strip() != behind.strip()  # a default turn may be closed by it
    return None if is_hidden and not closing.strip() else closing


def find_lead(end: AnswerEnd, header: str) -> str:
    """Return what stands between the header and an answer of the history, where the prompt ends with the header."""
    longer = end.evidence.probes.asked_again
    gap = longer.gap(0, 1) if longer is not None else ""
    own = gap[gap.rfind(header) + len(header) :] if header and header in gap else ""
    return "" if (end.evidence.prompt + own).startswith(end.evidence.prompt.removesuffix(own) + own + own) else own


def find_question_header(end: AnswerEnd) -> str:
    """Return what opens a question behind an answer; nothing if unknown."""
    longer = end.evidence.probes.asked_again
    return longer.gap(1, 2).removeprefix(find_behind_answer(end) or "") if longer is not None else ""


def find_between_answers(end: AnswerEnd) -> str | None:
    """Return what closes an answer in front of another one, where no header stands between them; else None."""
    probes = end.evidence.probes
    if probes.answered_twice is None or probes.answered_first is None:
        return None
    first, gap = probes.answered_first, probes.answered_twice.gap(1, 2)
    opening = first.scaffold[: first.content_spans[0][0]]
    own = cut_empty_block(opening[common_start(opening, probes.asked.scaffold) :])
    gap = cut_empty_block(gap)
    closing = gap.removesuffix(own)
    is_known = (
        not own.strip()
        and gap.endswith(own)
        and (
            closing == ""
            or find_control_text(closing, end.evidence.controls)
            or any(char.isalnum() for char in closing)
        )
    )
    return closing if is_known else None


def find_closing(end: AnswerEnd) -> str:
    """Return the text that closes an answer in front of a question; nothing where it is white space.

    It closes a question too, the last answer, or an answer in front of another: else it may open the question.
    """
    closing, probes = find_behind_answer(end) or "", end.evidence.probes
    if closing.strip() in ("", end.tail.strip()) and probes.asked_again:
        closing = end.tail if probes.asked_again.gap(1, 2).startswith(end.tail) else closing
    seams = [probes.between, end.tail]
    seams += [] if probes.answered_twice is None else [probes.answered_twice.gap(1, 2)]
    is_sure = closing.strip() and any(seam.startswith(closing) for seam in seams)
    return closing if is_sure and not find_control_text(closing, end.evidence.controls) else ""


def find_ending(end: AnswerEnd) -> str:
    """Return what follows a last answer up to its stop token, if it follows an answer in the history too."""
    ending = end.tail[: end.last_stop[0]] if end.last_stop else ""
    longest = end.evidence.probes.answered_again
    return ending if longest is None or longest.gap(1, 2).startswith(ending) else ""


def _run(tokens: Sequence[str], shared: Sequence[str]) -> Sequence[str]:
    """Return the first of some tokens and those behind it that follow it in `shared` too: `<end_text><end>`."""
    place = shared.index(tokens[0])
    return tokens[: count_equal(tokens, shared[place:])]


def _find_closers(longer: Trace, shared: Sequence[str], controls: tuple[str, ...]) -> list[str]:
    """Return the control tokens that end an answer in the history, in front of what opens the next question."""
    after, opening = longer.gap(1, 2), longer.scaffold[: longer.content_spans[0][0]]
    found = find_control_text(after, controls)
    tokens = [token for _, _, token in found]
    ends = [place for place, token in enumerate(tokens) if token in shared]
    if ends:  # the opening may end a default system turn in the same manner
        return tokens[: ends[0] + len(_run(tokens[ends[0] :], shared))]
    opened = len(after) - count_equal(after[::-1], opening[::-1])
    return [token for start, _, token in found if start < opened]


def _choose(tail: str, shared: Sequence[str], closers: Collection[str], evidence: Evidence) -> tuple[int, str] | None:
    """Return where the stop token of a turn ends in what follows its text, and which it is.

    A token that also ends a question ends a turn, with those right behind it that do so there too, down to the end of
    sequence, which generation stops at; else what ends answers in the history does, the tokenizer's end of sequence if
    it is there, or its last token; else the end of sequence; else the last one.
    """
    found = find_control_text(tail, evidence.controls)
    sure = {evidence.eos} & set(closers)
    for place, (_, _, token) in enumerate(found):
        if token in shared:
            run = found[place : place + len(_run([token for _, _, token in found[place:]], shared))]
            last = run[0]
            for following in run[1:]:
                if last[2] == evidence.eos or following[2] == evidence.opener or tail[last[1] : following[0]].strip():
                    break
                last = following
            return last[1], last[2]
    for accepted, candidates in ((sure, found), (closers, found[::-1]), ((evidence.eos,), found)):
        for _, end, token in candidates:
            if token in accepted:
                return end, token
    return (found[-1][1], found[-1][2]) if found else None
