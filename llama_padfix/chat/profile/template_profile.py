"""What is known about a chat template, learned by rendering probes: one prober, one record."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from llama_padfix.chat.jinja_environment import parse_template
from llama_padfix.chat.profile.profile_rules import (
    PROMPT_RULES,
    Evidence,
    find_history_header,
    first_of,
)
from llama_padfix.chat.profile.stop_rules import (
    find_answer_end,
    find_behind_answer,
    find_between_answers,
    find_closing,
    find_ending,
    find_lead,
    find_question_header,
    find_stops,
)
from llama_padfix.chat.profile.template_probes import ANSWER, ASSISTANT, QUESTION, USER, TracedProbes, trace_probes
from llama_padfix.chat.traced_render import source_of
from llama_padfix.tokens.calls import apply_template, count_leading, encode_raw, is_of_transformers, render_or_none
from llama_padfix.tokens.control import find_control_text, special_ids

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike, Tool


@dataclass(frozen=True)
class TemplateProfile:
    """What a chat template writes around an assistant turn, learned by rendering probes.

    The fields down to `role_headers` come from plain renderings; `is_traced` and those below it from traced ones, in
    which every character's author is known.
    """

    header: str = ""
    """The text that opens the turn: the generation prompt, or what stands before an answer where there is none."""
    header_in_history: bool = False
    """Whether `header` stands before the answers of a conversation too, so that they are found by it."""
    header_has_control: bool = False
    """Whether `header` holds a control token, so that no text can forge it."""
    stop_token: str | None = None
    """The first control token after the answer."""
    stop_token_id: int | None = None
    always_adds_prompt: bool = False
    """Whether every conversation ends with `header`, asked for or not."""
    leading_bos: int = 0
    """How many BOS ids a rendered conversation starts with."""
    error: str | None = None
    """Why plain renderings show nothing."""
    prints_date: bool = False
    """Whether today's date stands in a rendered conversation."""
    role_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The text that opens a turn in the history, by role: user, assistant, system."""
    is_traced: bool = False
    """Whether traced renderings show how the template writes a turn."""
    prompt: str = ""
    """The generation prompt after a question."""
    prompt_is_constant: bool = False
    """Whether nothing in a conversation can change the generation prompt."""
    prompt_has_control: bool = False
    completes_controls: bool = False
    """Whether a text can become a control token with what the template writes beside it: `'<|' + content + '|>'`."""
    ignores_prompt: bool = False
    """Whether asking for a generation prompt changes nothing."""
    added_prompt: str = ""
    """The generation prompt where it ends every conversation, asked for or not; else nothing."""
    history_header: str = ""
    """The part of the prompt, or of what stands before an answer, that the history repeats."""
    ending: str = ""
    """What follows a plain last answer, up to and including its stop token."""
    last_ending: str = ""
    """What follows a plain last answer, up to and including its stop token, whatever follows one in the history."""
    closing: str = ""
    """The text that closes the answers of the history, where no control token does: `[end]`."""
    behind_answer: str | None = None
    """What stands between an answer of the history and what opens the question behind it; None if unknown."""
    lead: str = ""
    """What stands between the header and a plain answer of the history, which the model writes too."""
    question_header: str = ""
    """What opens a question behind an answer."""
    between_answers: str | None = None
    """What closes an answer in front of another one, where no header parts them; else None."""
    stops: tuple[str, ...] = ()
    """All tokens seen to end a turn; the first ends a last answer."""
    controls: tuple[str, ...] = field(default=(), repr=False)
    """The control tokens of the tokenizer."""
    bos: str = ""
    """The text of the tokenizer's BOS."""

    @property
    def opened(self) -> str:
        """The prompt, from the header that the history repeats."""
        return self.prompt[max(self.prompt.find(self.history_header.strip()), 0) :]

    def find_header(self, text: str) -> int | None:
        """Return where the first header of a role stands in what the template wrote; None where none does."""
        headers = {
            header.strip() for header in (self.history_header, self.question_header, *self.role_headers.values())
        }
        found = [text.find(header) for header in headers if any(char.isalnum() for char in header)]
        return min((at for at in found if at >= 0), default=None)


# How the templates of Llama, Mistral, Granite, gpt-oss and others write a date.
_DATE_FORMATS = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y")
_SYSTEM = "Probeorder"
_KNOWN_PER_TOKENIZER = 8
_known: WeakKeyDictionary[TokenizerLike, dict[object, TemplateProfile]] = WeakKeyDictionary()


def observe_template(
    tokenizer: TokenizerLike, template_kwargs: Mapping[str, object] | None = None
) -> TemplateProfile | None:
    """Return what the tokenizer's chat template writes around an assistant turn.

    It is learned by rendering a few conversations, once for a template, its arguments, the tokenizer's control tokens
    and the day: a change of any of them is noticed.

    Args:
        tokenizer: A Hugging Face tokenizer. It is called, and left as it is but for its backend's state
            (`preserve_backend_state`).
        template_kwargs: The arguments of every rendering.

    Returns:
        The profile, with `error` set where plain renderings show nothing; None when there is no template.
    """
    if not (getattr(tokenizer, "chat_template", None) or (template_kwargs or {}).get("chat_template")):
        return None
    kwargs = {key: value for key, value in (template_kwargs or {}).items() if key != "continue_final_message"}
    key = _key_of(tokenizer, kwargs)
    if key is None:
        return _probe(tokenizer, kwargs)
    known = _known.setdefault(tokenizer, {})
    profile = known.get(key)
    if profile is None:
        if len(known) >= _KNOWN_PER_TOKENIZER:
            known.clear()
        profile = known[key] = _probe(tokenizer, kwargs)
    return profile


def _key_of(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> object:
    """Return all that a profile depends on; None where that cannot be compared, so that nothing may be kept."""
    if not is_of_transformers(tokenizer):
        return None  # another class may render by rules of its own
    try:
        json.dumps(kwargs)
    except (TypeError, ValueError):  # an object may change and look the same
        return None
    settings = (tokenizer.chat_template, kwargs, tokenizer.special_tokens_map, special_ids(tokenizer))
    return (repr(settings), len(tokenizer), datetime.now().date())


def _probe(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> TemplateProfile:
    """Return the profile from plain probes and then from traced ones.

    Content is traced as text, then as a list of parts, which some templates demand (Idefics 3, SmolVLM).
    """
    profile = _probe_plainly(tokenizer, kwargs)
    for as_parts in (False, True):
        probes = trace_probes(tokenizer, kwargs, as_parts)
        if probes is None:
            continue
        controls = tuple(special_ids(tokenizer))
        bos = tokenizer.bos_token or ""
        evidence = Evidence(probes, controls, bos, tokenizer.eos_token, profile.header, profile.always_adds_prompt)
        evidence = replace(evidence, prompt=first_of(PROMPT_RULES, evidence))
        header = find_history_header(evidence)
        end = find_answer_end(evidence, header)
        return replace(
            profile,
            is_traced=True,
            prompt=evidence.prompt,
            prompt_is_constant=not evidence.ignores_prompt and _is_prompt_constant(tokenizer, kwargs),
            prompt_has_control=bool(find_control_text(evidence.prompt, controls)),
            completes_controls=_completes_controls(probes, controls),
            ignores_prompt=evidence.ignores_prompt or not evidence.prompt,
            added_prompt=evidence.added_prompt,
            history_header=header,
            ending=find_ending(end),
            last_ending=end.tail[: end.last_stop[0]] if end.last_stop else "",
            closing=find_closing(end),
            behind_answer=find_behind_answer(end),
            lead=find_lead(end, header),
            question_header=find_question_header(end),
            between_answers=find_between_answers(end),
            stops=find_stops(end, header),
            controls=controls,
            bos=bos,
        )
    return profile


def _completes_controls(probes: TracedProbes, controls: Sequence[str]) -> bool:
    """Return True if what stands beside a text in the probes is the beginning or the end of a control token."""
    starts = tuple({token[:size] for token in controls for size in range(1, len(token))})
    ends = tuple({token[-size:] for token in controls for size in range(1, len(token))})
    longest = max(map(len, controls), default=0)
    for trace in filter(None, (probes.answered, probes.answered_again, probes.called, *probes.before_question)):
        if trace.lost:  # it is not known what stands beside a text
            return True
        for start, end, _ in trace.content_spans:
            before, after = trace.scaffold[max(start - longest, 0) : start], trace.scaffold[end : end + longest]
            if before.endswith(starts) or after.startswith(ends):
                return True
    return False


def _probe_plainly(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> TemplateProfile:
    """Return what one question and one answer show, rendered with and without a generation prompt."""
    try:
        whole = apply_template(tokenizer, [USER, ASSISTANT], template_kwargs=kwargs)
        asked = apply_template(tokenizer, [USER], template_kwargs=kwargs)
        prompted = apply_template(tokenizer, [USER], add_generation_prompt=True, template_kwargs=kwargs)
    except Exception as error:  # a template is a program of its author: it may raise anything
        return TemplateProfile(error=f"rendering it raised {type(error).__name__}: {error}")
    for probe, text in ((QUESTION, whole), (ANSWER, whole), (QUESTION, asked)):
        if text.count(probe) != 1:
            return TemplateProfile(error=f"it writes the content of a message {text.count(probe)} times")

    before, answer_tail = whole.split(ANSWER)
    opening, _, between = before.partition(QUESTION)
    asked_tail = asked.split(QUESTION)[1]
    prompted_tail = prompted.split(QUESTION)[1] if prompted.count(QUESTION) == 1 else asked_tail

    controls = special_ids(tokenizer)
    found = find_control_text(answer_tail, tuple(controls))
    stop_token = found[0][2] if found else None
    if stop_token is not None and opening.removeprefix(tokenizer.bos_token or "").lstrip().startswith(stop_token):
        stop_token = None  # what opens the first turn opens the next one too, and ends none
    # The template opened the next assistant turn by itself: what follows the question is what precedes the answer.
    opened = between.partition(stop_token)[2] if stop_token is not None and stop_token in between else between
    always = asked_tail == prompted_tail and asked_tail.rstrip() == between.rstrip() and opened.strip() != ""
    if always:
        header = opened
    elif prompted_tail.startswith(asked_tail) and prompted_tail != asked_tail:
        header = prompted_tail[len(asked_tail) :]
    else:
        # The template ignores add_generation_prompt: what stands before an answer has to do.
        header = between.removeprefix(asked_tail)
    profile = TemplateProfile(
        header=header,
        # A header that the history does not repeat (a think tag opened for the model) cannot be searched for.
        header_in_history=bool(header) and header in between,
        header_has_control=bool(find_control_text(header, tuple(controls))),
        stop_token=stop_token,
        stop_token_id=controls[stop_token] if stop_token is not None else None,
        always_adds_prompt=always,
        leading_bos=count_leading(encode_raw(tokenizer, whole), tokenizer.bos_token_id),
        prints_date=_prints_today(whole),
    )
    return replace(profile, role_headers=_find_role_headers(tokenizer, kwargs, profile, tuple(controls)))


def _prints_today(text: str) -> bool:
    today = datetime.now()
    return any(today.strftime(form) in text for form in _DATE_FORMATS)


def _find_role_headers(
    tokenizer: TokenizerLike, kwargs: Mapping[str, object], profile: TemplateProfile, controls: tuple[str, ...]
) -> dict[str, str]:
    """Return the text that opens the turn of each role in the history."""
    text = render_or_none(tokenizer, [USER, ASSISTANT, USER, ASSISTANT], kwargs) or ""
    if ANSWER not in text:
        return {}
    front, after = text.split(ANSWER)[:2]
    between, after = front.rpartition(QUESTION)[2], after.split(QUESTION)[0]
    opener = next((token for _, _, token in find_control_text(profile.header, controls)), "")
    if profile.stop_token is not None and profile.stop_token in after:
        after = after.partition(profile.stop_token)[2]
    elif opener and opener in after:  # what ends the last turn of a conversation may not end the others
        after = after[after.rfind(opener) :]
    # What opens the turn of the history, where that is not the generation prompt (which may open a thought).
    headers = {"user": after, "assistant": profile.header if profile.header_in_history else between}
    # Many templates refuse a system message.
    text = render_or_none(tokenizer, [{"role": "system", "content": _SYSTEM}, USER], kwargs) or ""
    if text.count(_SYSTEM) == 1:
        headers["system"] = text.partition(_SYSTEM)[0].removeprefix(tokenizer.bos_token or "")
    return {role: header for role, header in headers.items() if header.strip()}


def _is_prompt_constant(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> bool:
    r"""Return True if the generation prompt is constant text behind nothing but the request for it.

    `{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`: no conversation can change it, and one
    rendering is enough.
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


def read_sources(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> str:
    """Return the sources of the templates without and with tools."""
    found = ""
    given: list[list[Tool] | None] = [None, [{}]]
    for tools in given:
        with contextlib.suppress(Exception):  # named templates of which none is the default
            found += source_of(tokenizer, tools, kwargs)
    return found


def find_stop(tail: str, profile: TemplateProfile) -> int | None:
    """Return where the stop token ends in what follows a turn's last character; None where none does."""
    found = find_control_text(tail, profile.controls)
    if not found:
        return None
    known = [end for _, end, token in found if token in profile.stops]
    last = None if tail[found[-1][1] :].strip() else found[-1][1]
    return known[0] if known else last
