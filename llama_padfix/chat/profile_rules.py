"""The rules that read from traced probes what a chat template writes around an answer.

Three questions, each with an ordered tuple of rules: what the generation prompt is (`PROMPT_RULES`), which part of it
the history repeats (`HEADER_RULES`), and which tokens end an answer (`STOP_RULES`). The first rule that returns a text
decides; every stop rule adds its token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from llama_padfix.chat.template_probes import TracedProbes
from llama_padfix.chat.trace import Trace, common_start, count_equal
from llama_padfix.tokens.control import find_control_text

_MARKS = re.compile(r"[^\w\s]+ *$")  # with which headers of words open, such as "### "


@dataclass(frozen=True)
class Evidence:
    """What the rules read."""

    probes: TracedProbes
    controls: tuple[str, ...]
    """The control tokens of the tokenizer."""
    eos: str | None
    """The tokenizer's end of sequence."""
    plain_header: str
    """The header that plain probes show."""
    always_adds_prompt: bool
    """Whether plain probes show a generation prompt behind every conversation."""
    prompt: str = ""
    """The generation prompt, as soon as it is known."""

    @property
    def ignores_prompt(self) -> bool:
        """Whether asking for a generation prompt changes nothing."""
        return self.probes.asked.text == self.probes.prompted.text

    @property
    def added_prompt(self) -> str:
        """The generation prompt where the template writes it without being asked, else nothing."""
        return self.prompt if self.ignores_prompt else ""


TextRule = Callable[[Evidence], "str | None"]


def first_of(rules: Sequence[TextRule], evidence: Evidence) -> str:
    """Return what the first rule that applies returns; nothing where none does."""
    return next((text for rule in rules if (text := rule(evidence)) is not None), "")


# What the generation prompt is.


def _prompt_on_request(evidence: Evidence) -> str | None:
    r"""Take what `add_generation_prompt` adds: ChatML (Qwen), Llama 3, Gemma, Granite.

    Asked:    `<|im_start|>user\nProbequestion<|im_end|>\n`
    Prompted: `<|im_start|>user\nProbequestion<|im_end|>\n<|im_start|>assistant\n`
    """
    if evidence.ignores_prompt:
        return None
    tail = evidence.probes.prompted.tail
    return tail[common_start(tail, evidence.probes.asked.tail) :]


def _prompt_behind_everything(evidence: Evidence) -> str | None:
    r"""Take what stands behind a question and an answer, and in front of no question: Llama 3's first template.

    `<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n` ends each conversation, also behind an answer.
    """
    probes = evidence.probes
    if not evidence.ignores_prompt or probes.asked_again is None:
        return None
    asked_tail, between = probes.asked.tail, probes.between
    seams = [*((asked_tail, front) for front in probes.before_question), (probes.answered.tail, probes.asked_again)]
    found, followed = zip(*(_split_seam(*seam, probes.asked_again, evidence.controls) for seam in seams), strict=True)
    opened: str = min(found, key=len)
    if opened in "".join(followed):
        return None
    seam = len(asked_tail) - len(opened)
    same = common_start(opened, between[seam:])
    ends = asked_tail.endswith(opened) and probes.answered.tail.endswith(opened)
    ends = ends and between.startswith(asked_tail[:seam]) and any(char.isalnum() for char in opened[:same])
    return opened if ends and opened else None


def _prompt_of_plain_probes(evidence: Evidence) -> str | None:
    r"""Take the header that plain probes show behind every question: Llama 2, Mistral, MiniCPM.

    Asked:    `[INST] Probequestion [/INST]`
    Answered: `[INST] Probequestion [/INST] Probeanswer</s>`
    """
    return evidence.plain_header if evidence.ignores_prompt and evidence.always_adds_prompt else None


PROMPT_RULES: tuple[TextRule, ...] = (_prompt_on_request, _prompt_behind_everything, _prompt_of_plain_probes)


def _split_seam(tail: str, trace: Trace, longer: Trace, controls: tuple[str, ...]) -> tuple[str, str]:
    """Return what ends a conversation and does not stand there when a question follows, and what does stand there."""
    last = trace.content_spans[-1][2]
    followed = trace.gap(last - 1, last)
    opening = longer.scaffold[: longer.content_spans[0][0]]
    same = common_start(tail, followed)
    _, end, token = (find_control_text(tail[:same], controls) or [(0, 0, "")])[-1]
    header = followed[end - len(token) :]
    if end and end == same and opening.endswith(header) and not _opens(followed[end:], controls):
        same -= len(token)  # both headers open with one token
    else:
        same -= len(tail[end:same]) - len(_MARKS.sub("", tail[end:same]))
    return tail[same:].lstrip(), followed


def _opens(text: str, controls: tuple[str, ...]) -> bool:
    """Return True if a text begins with a control token."""
    found = find_control_text(text, controls)
    return bool(found) and not text[: found[0][0]].strip()


# Which part of the prompt the history repeats.


def _header_of_added_prompt(evidence: Evidence) -> str | None:
    r"""Take what the answers of the history share with a prompt that is always there: Llama 3's first template.

    History: `<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nProbeanswer`
    """
    prompt = evidence.added_prompt
    if not prompt:
        return None
    seam = len(evidence.probes.asked.tail) - len(prompt)
    return min((prompt[: common_start(prompt, gap[seam:])] for gap in evidence.probes.in_front_of_answers), key=len)


def _header_of_prompt(evidence: Evidence) -> str | None:
    r"""Take what the answers of the history share with the prompt: a Qwen 3 that opens a thought.

    Prompt:  `<|im_start|>assistant\n<think>\n`
    History: `<|im_start|>assistant\nProbeanswer`
    """
    if not evidence.prompt or evidence.ignores_prompt:
        return None
    tail = evidence.probes.prompted.tail
    seam = len(tail) - len(evidence.prompt)
    return min(
        (tail[seam : max(seam, common_start(tail, gap))] for gap in evidence.probes.in_front_of_answers), key=len
    )


def _header_of_history(evidence: Evidence) -> str | None:
    r"""Take what an answer adds in front of itself, where no prompt is ever written: templates for training.

    Asked:    `[user] Probequestion<|eot_id|>`
    Answered: `[user] Probequestion<|eot_id|>[assistant] Probeanswer<|eot_id|>`
    """
    asked_tail, between = evidence.probes.asked.tail, evidence.probes.between
    if not evidence.ignores_prompt or evidence.prompt or not between.startswith(asked_tail):
        return None
    header = between[len(asked_tail) :]
    for gap in evidence.probes.in_front_of_answers:  # the last answer may begin with a thought that the history lacks
        header = header[: common_start(header, gap[len(asked_tail) :])] or header
    return header


HEADER_RULES: tuple[TextRule, ...] = (
    _header_of_added_prompt,
    _header_of_prompt,
    _header_of_history,
)


def find_history_header(evidence: Evidence) -> str:
    """Return the part of the generation prompt that stands before the answers of the history; it holds a word."""
    header = first_of(HEADER_RULES, evidence)
    if any(char.isalnum() for char in header):
        return header
    bare = evidence.prompt.strip()  # white space may stand elsewhere in the history
    return bare if bare and all(bare in gap for gap in evidence.probes.in_front_of_answers) else ""


# Which tokens end an answer.


@dataclass(frozen=True)
class AnswerEnd:
    """What the stop rules read beside the evidence."""

    evidence: Evidence
    tail: str
    """What follows a last answer, without a prompt that is always there."""
    shared: frozenset[str]
    """The control tokens between a question and the header of its answer: they end turns of others too."""
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
    asked_end = between[: between.find(header)] if header else ""
    shared = frozenset(token for _, _, token in find_control_text(asked_end, evidence.controls))
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
    known = {*end.shared, *stops, end.evidence.eos}
    return next((token for token in end.closers if token in known), end.closers[-1]) if end.closers else None


def _stop_of_tool_call(end: AnswerEnd, stops: Sequence[str]) -> str | None:
    r"""Add what ends a tool call: gpt-oss, `<|message|>{"at": "sky"}<|call|>`."""
    called = end.evidence.probes.called
    if called is None:
        return None
    found = _choose(called.tail.removesuffix(end.evidence.added_prompt), frozenset(stops), (), end.evidence)
    return found[1] if found else None


def _stop_of_built_in_call(end: AnswerEnd, stops: Sequence[str]) -> str | None:
    r"""Add what ends a call of a built-in tool in Llama 3.1: `<|python_tag|>look.call(at="sky")<|eom_id|>`."""
    return "<|eom_id|>" if "<|eom_id|>" in end.evidence.controls else None


STOP_RULES: tuple[StopRule, ...] = (
    _stop_of_last_answer,
    _stop_of_history,
    _stop_of_tool_call,
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


def find_ending(end: AnswerEnd) -> str:
    """Return what follows a last answer up to its stop token, if it follows an answer in the history too."""
    ending = end.tail[: end.last_stop[0]] if end.last_stop else ""
    longest = end.evidence.probes.answered_again
    return ending if longest is None or longest.gap(1, 2).startswith(ending) else ""


def _find_closers(longer: Trace, shared: Collection[str], controls: tuple[str, ...]) -> list[str]:
    """Return the control tokens that end an answer in the history, in front of what opens the next question."""
    after, opening = longer.gap(1, 2), longer.scaffold[: longer.content_spans[0][0]]
    found = find_control_text(after, controls)
    tokens = [token for _, _, token in found]
    ends = [place for place, token in enumerate(tokens) if token in shared]
    if ends:  # the opening may end a default system turn in the same manner
        return tokens[: ends[0] + 1]
    opened = len(after) - count_equal(after[::-1], opening[::-1])
    return [token for start, _, token in found if start < opened]


def _choose(
    tail: str, shared: Collection[str], closers: Collection[str], evidence: Evidence
) -> tuple[int, str] | None:
    """Return where the stop token of a turn ends in what follows its text, and which it is.

    A token that also ends a question ends a turn; else what ends answers in the history does, the tokenizer's end
    of sequence if it is there, or its last token; else the end of sequence; else the last one.
    """
    found = find_control_text(tail, evidence.controls)
    sure = {evidence.eos} & set(closers)
    for accepted, candidates in ((shared, found), (sure, found), (closers, found[::-1]), ((evidence.eos,), found)):
        for _, end, token in candidates:
            if token in accepted:
                return end, token
    return (found[-1][1], found[-1][2]) if found else None
