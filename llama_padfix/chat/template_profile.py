"""What stands around an assistant turn in a chat template, learned from a few traced probes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llama_padfix.chat.trace import Structure, Trace, common_start, read_trace
from llama_padfix.chat.traced_render import parse_template, render_traced, source_of
from llama_padfix.tokens.calls import apply_template, count_leading, encode_raw
from llama_padfix.tokens.control import find_control_text, special_ids

__all__ = ["USER_PROBE", "TemplateFacts", "learn_structure", "observe_template"]


@dataclass(frozen=True)
class TemplateFacts:
    """What stands around an assistant turn in a chat template, learned by rendering probes.

    `header` is the text that opens the turn (the generation prompt); it is found again before the answers of a
    conversation when `header_in_history`, and cannot be forged by text when `header_has_control` (it holds a
    control token). `stop_token` is the first special token after the answer. `leading_bos` counts the BOS ids
    that a rendered conversation starts with. `always_opens_turn`: the template ends every conversation with
    the header, asked or not. `prints_date`: today's date stands in what it renders. `error` says why nothing could
    be learned.
    """

    header: str = ""
    header_in_history: bool = False
    header_has_control: bool = False
    stop_token: str | None = None
    stop_token_id: int | None = None
    always_opens_turn: bool = False
    leading_bos: int = 0
    error: str | None = None
    prints_date: bool = False


# Plain words, so that no template trims, splits or escapes them; each must come out exactly once.
USER_PROBE = "Probequestion"
_ASSISTANT_PROBE = "Probeanswer"
# How the templates of Llama, Mistral, Granite, gpt-oss and others write a date.
_DATE_FORMATS = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y")


def observe_template(tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None) -> TemplateFacts | None:
    """Return what stands around an assistant turn in the chat template; None when there is no template.

    Learned by rendering one question and one answer with and without a generation prompt; `error` says why
    where the template does not let itself be read.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    user = {"role": "user", "content": USER_PROBE}
    assistant = {"role": "assistant", "content": _ASSISTANT_PROBE}
    try:
        whole = apply_template(tokenizer, [user, assistant], template_kwargs=template_kwargs)
        asked = apply_template(tokenizer, [user], template_kwargs=template_kwargs)
        prompted = apply_template(tokenizer, [user], add_generation_prompt=True, template_kwargs=template_kwargs)
    except Exception as error:  # a template is somebody else's program: it may raise anything
        return TemplateFacts(error=f"rendering it raised {type(error).__name__}: {error}")
    for probe, text in ((USER_PROBE, whole), (_ASSISTANT_PROBE, whole), (USER_PROBE, asked)):
        if text.count(probe) != 1:
            return TemplateFacts(error=f"it writes the content of a message {text.count(probe)} times")

    before, answer_tail = whole.split(_ASSISTANT_PROBE)
    between = before.split(USER_PROBE)[1]
    asked_tail = asked.split(USER_PROBE)[1]
    prompted_tail = prompted.split(USER_PROBE)[1] if prompted.count(USER_PROBE) == 1 else asked_tail

    controls = special_ids(tokenizer)
    found = find_control_text(answer_tail, tuple(controls))
    stop_token = found[0][2] if found else None
    opening = before.split(USER_PROBE)[0].removeprefix(tokenizer.bos_token or "").lstrip()
    if stop_token is not None and opening.startswith(stop_token):
        stop_token = None  # what opens the first turn opens the next one too, and ends none
    # The template opened the next assistant turn by itself: what follows the question is what precedes the answer.
    opened = between.partition(stop_token)[2] if stop_token is not None and stop_token in between else between
    always_opens_turn = (
        asked_tail == prompted_tail and asked_tail.rstrip() == between.rstrip() and opened.strip() != ""
    )
    if always_opens_turn:
        header = opened
    elif prompted_tail.startswith(asked_tail) and prompted_tail != asked_tail:
        header = prompted_tail[len(asked_tail) :]
    else:
        # The template ignores add_generation_prompt: what stands before an answer has to do.
        header = between[len(asked_tail) :] if between.startswith(asked_tail) else between
    return TemplateFacts(
        header=header,
        # A header that the history does not repeat (a think tag opened for the model) cannot be searched for.
        header_in_history=bool(header) and header in between,
        header_has_control=bool(find_control_text(header, tuple(controls))),
        stop_token=stop_token,
        stop_token_id=controls[stop_token] if stop_token is not None else None,
        always_opens_turn=always_opens_turn,
        leading_bos=count_leading(encode_raw(tokenizer, whole), tokenizer.bos_token_id),
        prints_date=_prints_today(whole),
    )


def _prints_today(text: str) -> bool:
    today = datetime.now()
    return any(today.strftime(form) in text for form in _DATE_FORMATS)


_WORDS = ("Probequestion", "Probeanswer", "Secondquestion", "Secondanswer")
_MARKS = re.compile(r"[^\w\s]+ *$")  # with which headers of words open, such as "### "
_CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look", "arguments": {"at": "sky"}}}


def learn_structure(
    tokenizer: Any, kwargs: Mapping[str, Any], facts: TemplateFacts, controls: tuple[str, ...]
) -> Structure | None:
    """Return how the template writes a turn; None where probes do not show it.

    Content is tried as text, then as a list of parts, which some templates demand.
    """
    for as_parts in (False, True):
        found = _learn(tokenizer, kwargs, facts, controls, as_parts)
        if found is not None:
            return found
    return None


def _learn(
    tokenizer: Any, kwargs: Mapping[str, Any], facts: TemplateFacts, controls: tuple[str, ...], as_parts: bool
) -> Structure | None:
    def probe(
        count: int,
        prompt: bool = False,
        last: Mapping[str, Any] | None = None,
        roles: Sequence[str] = ("user", "assistant"),
    ) -> Trace | None:
        messages: list[Mapping[str, Any]] = [
            {"role": roles[n % 2], "content": [{"type": "text", "text": word}] if as_parts else word}
            for n, word in enumerate(_WORDS[:count])
        ]
        if last is not None:
            messages.append(last)
        try:
            found = read_trace(render_traced(tokenizer, messages, None, kwargs, prompt))
        except Exception:  # a template is somebody else's program: it may raise anything
            return None
        return found if all(_once(found, n, word) for n, word in enumerate(_WORDS[:count])) else None

    asked, prompted, one = probe(1), probe(1, True), probe(2)
    if asked is None or prompted is None or one is None:
        return None
    asked_tail, prompted_tail = _tail(asked), _tail(prompted)
    between = _gap(one, 0, 1)
    ignores = asked.text == prompted.text
    prompt = prompted_tail[common_start(prompted_tail, asked_tail) :] if not ignores else ""
    tail = _tail(one)
    longer, longest = probe(3), probe(4)
    opened = ""
    if ignores and longer is not None:
        others = [probe(2, roles=(role, "user")) for role in ("system", "user")]
        seams = [(asked_tail, other) for other in others if other is not None]
        opened = _find_opened(asked_tail, tail, between, [*seams, (tail, longer)], controls)
    opens_always = ignores and (facts.always_opens_turn or bool(opened))
    if opens_always:
        prompt = opened or facts.header
    history = [between]
    if longest is not None:
        history += [_gap(longest, 0, 1), _gap(longest, 2, 3)]
    header = facts.header
    if opens_always:
        seam = len(asked_tail) - len(prompt)
        header = min((prompt[: common_start(prompt, gap[seam:])] for gap in history), key=len)
    if prompt and not opens_always:
        seam = len(prompted_tail) - len(prompt)
        header = min((prompted_tail[seam : max(seam, common_start(prompted_tail, gap))] for gap in history), key=len)
    elif ignores and not opens_always and between.startswith(asked_tail):
        header = between[len(asked_tail) :]
        for gap in history:  # the last answer may begin with a thought that the history leaves out
            header = header[: common_start(header, gap[len(asked_tail) :])] or header
    if not any(char.isalnum() for char in header):  # white space may stand elsewhere in the history
        bare = prompt.strip()
        header = bare if bare and all(bare in gap for gap in history) else ""

    tail = tail.removesuffix(prompt if opens_always else "")
    shared = {token for _, _, token in find_control_text(between[: between.find(header)] if header else "", controls)}
    eos = tokenizer.eos_token
    closers = _find_closers(longer, shared, controls) if longer is not None else []
    last_stop = _choose(tail, shared, closers, eos, controls)
    stops = [last_stop[1]] if last_stop else []
    if closers:
        known = {*shared, *stops, eos}
        stops.append(next((token for token in closers if token in known), closers[-1]))
    call = probe(1, last={"role": "assistant", "content": "", "tool_calls": [_CALL]})
    if call is not None and "look" in call.text:
        called = _choose(_tail(call).removesuffix(prompt if opens_always else ""), set(stops), [], eos, controls)
        stops += [called[1]] if called else []
    stops += [token for token in ("<|eom_id|>",) if token in controls]
    openers = {token for _, _, token in find_control_text(header, controls)[:1]}
    ending = tail[: last_stop[0]] if last_stop else ""
    if ending and longest is not None and not _gap(longest, 1, 2).startswith(ending):
        ending = ""
    return Structure(
        prompt=prompt,
        steady=not ignores and _is_steady(tokenizer, kwargs),
        header=header,
        ending=ending,
        stops=tuple(token for token in dict.fromkeys(stops) if token not in openers),
        controls=controls,
        opens_always=opens_always,
        ignores_prompt=ignores,
        prompt_has_control=bool(find_control_text(prompt, controls)),
        bos=tokenizer.bos_token or "",
    )


def _once(trace: Trace, index: int, word: str) -> bool:
    """Tell whether the word of a message was written once, however the template changed it."""
    written = sum(end - start for start, end, origin in trace.blocks if origin == index)
    return 0 < written < 2 * len(word)


def _tail(trace: Trace) -> str:
    return trace.own[trace.blocks[-1][1] :]


def _gap(trace: Trace, left: int, right: int) -> str:
    """Return what the template wrote between the words of two messages."""
    end = max(end for _, end, origin in trace.blocks if origin == left)
    start = min(start for start, _, origin in trace.blocks if origin == right)
    return trace.own[end:start]


def _find_closers(longer: Trace, shared: set[str], controls: Sequence[str]) -> list[str]:
    """Return the control tokens that end an answer in the history, in front of what opens the next question."""
    after, opening = _gap(longer, 1, 2), longer.own[: longer.blocks[0][0]]
    found = find_control_text(after, tuple(controls))
    tokens = [token for _, _, token in found]
    ends = [place for place, token in enumerate(tokens) if token in shared]
    if ends:  # the opening may end a default system turn in the same way
        return tokens[: ends[0] + 1]
    opened = len(after) - _common_end(after, opening)
    return [token for start, _, token in found if start < opened]


def _find_opened(
    asked_tail: str,
    answered_tail: str,
    between: str,
    seams: Sequence[tuple[str, Trace]],
    controls: Sequence[str],
) -> str:
    """Return what a template that ignores the wish for a generation prompt opens behind every conversation.

    It stands at the end of a question's and of an answer's text alike, and in front of an answer, but not in front
    of a question: `seams` are such ends with a conversation that goes on there with a question.
    """
    found, elsewhere, opening = [], "", seams[-1][1].own[: seams[-1][1].blocks[0][0]]
    for tail, trace in seams:
        followed = _gap(trace, trace.blocks[-1][2] - 1, trace.blocks[-1][2])
        same = common_start(tail, followed)
        _, end, token = (find_control_text(tail[:same], tuple(controls)) or [(0, 0, "")])[-1]
        header = followed[end - len(token) :]
        if end and end == same and opening.endswith(header) and not _opens(followed[end:], controls):
            same -= len(token)  # both headers open with one token
        else:
            same -= len(tail[end:same]) - len(_MARKS.sub("", tail[end:same]))
        found.append(tail[same:].lstrip())
        elsewhere += followed
    opened = min(found, key=len)
    if opened in elsewhere:
        return ""
    seam = len(asked_tail) - len(opened)
    same = common_start(opened, between[seam:])
    ends = asked_tail.endswith(opened) and answered_tail.endswith(opened) and between.startswith(asked_tail[:seam])
    return opened if ends and any(char.isalnum() for char in opened[:same]) else ""


def _opens(text: str, controls: Sequence[str]) -> bool:
    """Tell whether a text begins with a control token."""
    found = find_control_text(text, tuple(controls))
    return bool(found) and not text[: found[0][0]].strip()


def _choose(
    tail: str, shared: set[str], closers: Sequence[str], eos: str | None, controls: Sequence[str]
) -> tuple[int, str] | None:
    """Return where the stop token of a turn ends in what follows its text, and which it is.

    A token that also ends a question ends a turn; else what ends answers in the history does, the tokenizer's end
    of sequence if it is there, or its last token; else the end of sequence; else the last one.
    """
    found = find_control_text(tail, tuple(controls))
    sure = {eos} & set(closers)
    for accepted, candidates in ((shared, found), (sure, found), (set(closers), found[::-1]), ({eos}, found)):
        for _, end, token in candidates:
            if token in accepted:
                return end, token
    return (found[-1][1], found[-1][2]) if found else None


def _common_end(one: str, other: str) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


def _is_steady(tokenizer: Any, kwargs: Mapping[str, Any]) -> bool:
    """Tell whether the generation prompt is constant text behind nothing but the wish for it.

    Then no conversation can change it, and one rendering is enough.
    """
    from jinja2 import nodes

    try:
        tree = parse_template(source_of(tokenizer, None, kwargs))
        other = parse_template(source_of(tokenizer, [{}], kwargs))
    except Exception:  # a tokenizer without a default template
        return False
    if tree != other:
        return False
    if tree.find(nodes.CallBlock) is not None:  # `{% generation %}`: what it marks is looked at row by row
        return False
    uses = [name for name in tree.find_all(nodes.Name) if name.name == "add_generation_prompt"]
    for choice in tree.find_all(nodes.If):
        if not (isinstance(choice.test, nodes.Name) and choice.test.name == "add_generation_prompt"):
            continue
        pieces = [piece for node in choice.body for piece in getattr(node, "nodes", [node])]
        if len(uses) == 1 and all(isinstance(piece, (nodes.TemplateData, nodes.Const)) for piece in pieces):
            return True
    return False
