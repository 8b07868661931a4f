"""The rules that read from traced probes what a chat template writes around an answer.

Two questions, each with an ordered tuple of rules: what the generation prompt is (`PROMPT_RULES`), and which part of
it the history repeats (`HEADER_RULES`). The first rule that returns a text decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llama_padfix.chat.profile.template_probes import TracedProbes
from llama_padfix.chat.tag_pairs import TAG, cut_empty_block
from llama_padfix.chat.trace import Trace, common_end, common_start, find_header_end
from llama_padfix.tokens.control import find_control_text

_OPENING = re.compile(rf"{TAG.pattern}|[^\w\s]* ?\w+")  # a tag, or a word with the marks before it
_FIRST = re.compile(r"[^\w\s]+|\w+")  # the marks or the word with which a text opens
_MARKS = re.compile(r"[^\w\s]+ *$")  # with which headers of words open, such as "### "


@dataclass(frozen=True)
class Evidence:
    """What the rules read."""

    probes: TracedProbes
    controls: tuple[str, ...]
    """The control tokens of the tokenizer."""
    bos: str
    """The tokenizer's begin of sequence, or nothing."""
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

    @property
    def opener(self) -> str:
        """The control token that opens the first turn, if one does."""
        opening = self.probes.asked.scaffold[: self.probes.asked.content_spans[0][0]].removeprefix(self.bos)
        return next(
            (token for at, _, token in find_control_text(opening, self.controls) if not opening[:at].strip()), ""
        )

    @property
    def closings(self) -> list[str]:
        """What stands between an answer, or a question, of the history and what opens the question behind it."""
        longer, fronts = self.probes.asked_again, self.probes.before_question
        seams = [] if longer is None else [(longer, longer.gap(1, 2))]
        found = []
        for trace, after in [*seams, *((front, front.gap(0, 1)) for front in fronts)]:
            opening = self.cut_opening(trace.scaffold[: trace.content_spans[0][0]])
            end = self._skip_eos(after, len(after) - common_end(after, opening))
            found.append(after[:end] or self._shared_with_prompt(after))
        return found

    def _skip_eos(self, after: str, end: int) -> int:
        r"""Return where a question opens: not with the end of sequence, which closes a default turn before it too.

        Opening: `<Y>Be kind.<E>\n<U>`, after an answer: `\n\n<E>\n<U>`
        """
        found = find_control_text(after[end:], self.controls)
        opens = found and found[0][2] == self.eos != self.bos and not after[end : end + found[0][0]].strip()
        return end + found[1][0] if opens and len(found) > 1 else end

    def cut_opening(self, opening: str) -> str:
        """Return what opens the question, without what the template writes before in the same manner."""
        word = _FIRST.search(opening.removeprefix(self.bos))
        opens = self.opener or (word.group() if word else "")
        return opening[max(opening.rfind(opens), 0) :]

    def _shared_with_prompt(self, after: str) -> str:
        """Return what stands in front of the token that opens a question, and of the one that opens the prompt."""
        tail = self.probes.prompted.tail
        prompt = tail[common_start(tail, self.probes.asked.tail) :]
        shared = common_start(after, prompt)
        both_open = _opens(after[shared:], self.controls) and _opens(prompt[shared:], self.controls)
        is_apart = after[:shared] != after[:shared].rstrip() and not self.opener  # headers are words
        is_other = not self.opener or self.opener not in after[:shared]
        has_control = bool(find_control_text(after[:shared], self.controls))
        return after[:shared] if has_control and is_other and (both_open or is_apart) else ""


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
    prompt = tail[common_start(tail, evidence.probes.asked.tail) :]
    return _without_closing(prompt, evidence.closings)


def _without_closing(prompt: str, closings: Sequence[str]) -> str:
    r"""Return a prompt without the end of the turn before it, which some templates write only when something follows.

    `<E>\n<S>assistant\n` -> `<S>assistant\n`, where an answer of the history is closed by `<E>\n`
    """
    tails = {closing[at:] for closing in closings for at in range(len(closing))}
    ends = [tail for tail in tails if prompt.startswith(tail)]
    ends += [prompt for tail in tails if tail.strip() and tail.rstrip() == prompt.rstrip()]
    rest = prompt[len(max(ends, key=len, default="")) :]
    if ends and not rest.strip():
        return ""  # white space behind the closing token
    return rest if any(char.isalnum() for char in rest) or not rest.strip() else prompt


def _prompt_behind_everything(evidence: Evidence) -> str | None:
    r"""Take what stands behind a question and an answer, and in front of no question: Llama 3's first template.

    `<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n` ends each conversation, also behind an answer.
    """
    probes = evidence.probes
    if not evidence.ignores_prompt or probes.asked_again is None:
        return None
    asked_tail, between = probes.asked.tail, probes.between
    seams = [*((asked_tail, front) for front in probes.before_question), (probes.answered.tail, probes.asked_again)]
    found, followed = zip(*(_split_seam(*seam, evidence) for seam in seams), strict=True)
    opened: str = min(found, key=len)
    if opened in "".join(followed):
        return None
    same = common_start(opened, _behind_closing(between, asked_tail, opened) or "")
    ends = asked_tail.endswith(opened) and probes.answered.tail.endswith(opened)
    return opened if ends and opened and any(char.isalnum() for char in opened[:same]) else None


def _behind_closing(gap: str, tail: str, prompt: str) -> str | None:
    """Return what stands in a gap behind what `tail` holds in front of the prompt, but for white space."""
    closing = tail.removesuffix(prompt).rstrip()
    return gap[len(closing) :].lstrip() if gap.startswith(closing) else None


def _prompt_of_plain_probes(evidence: Evidence) -> str | None:
    r"""Take the header that plain probes show behind every question: Llama 2, Mistral, MiniCPM.

    Asked:    `[INST] Probequestion [/INST]`
    Answered: `[INST] Probequestion [/INST] Probeanswer</s>`
    """
    if not (evidence.ignores_prompt and evidence.always_adds_prompt):
        return None
    bare = evidence.plain_header.rstrip()  # white space behind the prompt may be the answer's
    return bare if evidence.probes.asked.tail.endswith(bare) else evidence.plain_header


PROMPT_RULES: tuple[TextRule, ...] = (_prompt_on_request, _prompt_behind_everything, _prompt_of_plain_probes)


def _split_seam(tail: str, trace: Trace, evidence: Evidence) -> tuple[str, str]:
    """Return what ends a conversation and does not stand there when a question follows, and what does stand there."""
    last = trace.content_spans[-1][2]
    followed = trace.gap(last - 1, last)
    opening, controls = evidence.probes.asked.scaffold, evidence.controls
    opening = opening[: evidence.probes.asked.content_spans[0][0]]
    same = common_start(tail, followed)
    word = _FIRST.search(_cut_default_text(opening.removeprefix(evidence.bos), followed, tail[:same]))
    _, end, token = (find_control_text(tail[:same], controls) or [(0, 0, "")])[-1]
    header = followed[end - len(token) :]
    if end and end == same and opening.endswith(header) and not _opens(followed[end:], controls):
        same -= len(token)  # both headers open with one token
    elif word and word.group() in tail[end:same]:
        same = tail.index(word.group(), end)  # or with one word
    else:
        same -= len(tail[end:same]) - len(_MARKS.sub("", tail[end:same]))
    return tail[same:].lstrip(), followed


def _cut_default_text(opening: str, followed: str, shared: str) -> str:
    r"""Return what opens the first question, without a text that the template writes in front of it on its own.

    Opening:  `Turns look like From: assistant\n this[end]\n.\nFrom: user\n`
    Followed: `[end]\nFrom: user\n`, of which `[end]\nFrom: ` is shared with what ends a conversation
    """
    own = opening[len(opening) - common_end(opening, followed) :]
    if own == opening:
        return opening
    line = shared[shared.rfind("\n") + 1 :]
    return own if own[:1].isspace() else line or opening


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
    tail = evidence.probes.asked.tail
    found = [_behind_closing(gap, tail, prompt) or "" for gap in evidence.probes.in_front_of_answers]
    return min((gap[: find_header_end(prompt, gap) or common_start(prompt, gap)] for gap in found), key=len)


def _header_of_prompt(evidence: Evidence) -> str | None:
    r"""Take what the answers of the history share with the prompt: a Qwen 3 that opens a thought.

    Prompt:  `<|im_start|>assistant\n<think>\n`
    History: `<|im_start|>assistant\nProbeanswer`
    """
    if not evidence.prompt or evidence.ignores_prompt:
        return None
    tail = evidence.probes.prompted.tail
    seam = len(tail) - len(evidence.prompt)
    headers = []
    for gap in evidence.probes.in_front_of_answers:
        gap = gap if cut_empty_block(tail) != tail else cut_empty_block(gap)
        end = find_header_end(tail, gap)
        shared = tail[seam : max(seam, common_start(tail, gap))]
        if end is not None and gap[:end].endswith(evidence.prompt):
            shared = evidence.prompt
        elif end is not None and gap.startswith(tail[:seam]) and end - seam > len(shared):
            shared = gap[seam:end]
        if not any(char.isalnum() for char in shared):
            shared = _shared_from_opening(evidence, gap)
        headers.append(shared)
    return min(headers, key=len)


def _shared_from_opening(evidence: Evidence, gap: str) -> str:
    r"""Return what a gap of the history shares with the prompt, from the first word of the prompt on."""
    prompt = evidence.prompt.lstrip()
    opens = _OPENING.match(prompt)
    at = gap.rfind(opens.group()) if opens else -1
    own = gap[at:] if at >= 0 else ""
    return own[: find_header_end(prompt, own) or common_start(prompt, own)]


def _header_of_history(evidence: Evidence) -> str | None:
    r"""Take what an answer adds in front of itself, where no prompt is ever written: templates for training.

    Asked:    `[user] Probequestion<|eot_id|>`
    Answered: `[user] Probequestion<|eot_id|>[assistant] Probeanswer<|eot_id|>`

    A template may write its end of sequence only where no prompt is asked for: then what is asked for shows the seam.
    """
    between, probes = evidence.probes.between, (evidence.probes.asked, evidence.probes.prompted)
    asked_tail = next((probe.tail for probe in probes if between.startswith(probe.tail)), None)
    if evidence.prompt or asked_tail is None:
        return None
    header = between[len(asked_tail) :]
    for gap in evidence.probes.in_front_of_answers:  # the last answer may begin with a thought that the history lacks
        header = header[: common_start(header, gap[len(asked_tail) :])] or header
    return cut_empty_block(_without_closing(header, evidence.closings))


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
    for bare in (evidence.prompt.lstrip(), evidence.prompt.strip()):  # white space may stand elsewhere in the history
        if bare and all(bare in gap for gap in evidence.probes.in_front_of_answers):
            return bare
    return ""
