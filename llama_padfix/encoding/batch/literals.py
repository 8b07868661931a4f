"""What a template writes around symbolic texts and objects, and the generation prompts in front of their answers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_padfix.chat.seams.noted import PROMPTS, Prompts
from llama_padfix.chat.symbolic_slots import CLOSE, OPEN, ObjectOpened, Slot, TemplateBranched
from llama_padfix.chat.symbolic_str import PATTERN
from llama_padfix.chat.traced_render import source_of
from llama_padfix.core.compat import gives_clock
from llama_padfix.tokens.control import find_control_text

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate


class SymbolicPrompts(Prompts):
    """The prompts that a template notes while it writes symbolic texts."""

    @cached_property
    def _found(self) -> tuple[str, list[tuple[int, int]]]:
        written = "".join(map(str.__str__, self.pieces))
        return written, [found.span() for found in PATTERN.finditer(written)]

    def find_end(self, message: int, place: int) -> str | None:
        """Return what stands behind the last text, with a prompt; None unless `place` texts stand before it."""
        at, prompt = self.find(message) or (0, OPEN)
        end = str.__str__(prompt)
        written, edges = self._found
        if OPEN in end or CLOSE in end or bisect_right(edges, (at, 0)) != place:
            return None
        return written[edges[place - 1][1] if place else 0 : at] + end


class Prompt(NamedTuple):
    """What is written behind the last text in front of an answer, prompt included, and what texts must lack for it."""

    text: str
    forbidden: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Literals:
    """What a template writes around texts: one literal more than slots."""

    literals: tuple[str, ...]
    slots: tuple[Slot, ...]
    forbidden_substrings: frozenset[str]
    prompts: SymbolicPrompts | None = field(default=None, compare=False, repr=False)
    """The generation prompts between the texts, where the template notes them."""


def render_literals(
    template: ChatTemplate,
    render: Callable[[str, Mapping[str, object], bool], Literals],
    prompt: bool,
    tools: Sequence[Any] | None = None,  # of which the tokenizer only asks whether there are some
) -> Literals | None:
    """Return what `render` returns of the template's source, its variables, and whether it is given the clock.

    None if that branches on a text, or raises, or if what is written has no ids. Raises `ObjectOpened` if it looks
    into an object.
    """
    kwargs = dict(template.kwargs)
    context = {**template.tokenizer.special_tokens_map, **kwargs, "documents": None, "add_generation_prompt": prompt}
    source, clock = source_of(template.tokenizer, tools, kwargs), gives_clock(template.tokenizer)
    noted = SymbolicPrompts()
    if not (prompt or template.profile.prompt_is_constant):
        context[PROMPTS] = noted
    try:
        try:
            written = render(source, context, clock)
        except (TemplateBranched, Exception):  # a prompt may raise where the whole does not
            if not noted.pieces:
                raise
            written, noted = render(source, {**context, PROMPTS: None}, clock), SymbolicPrompts()
        "".join((*written.literals, *written.forbidden_substrings)).encode()  # half of a surrogate pair has no ids
    except ObjectOpened:
        raise
    except (TemplateBranched, Exception):  # a template is a user's program: it may raise anything
        return None
    return replace(written, prompts=noted) if noted.pieces else written


def find_prompt(
    written: Literals, message: int, place: int, render: Callable[[int, bool], Literals | None]
) -> Prompt | None:
    """Return the end of the conversation up to an answer behind `place` texts; None where a text can change it.

    `render` returns what is written for the first so many messages, with a prompt or without.
    """
    noted = None if written.prompts is None else written.prompts.find_end(message, place)
    if noted is not None:
        return Prompt(noted)
    prompted, answered = render(message, True), render(message + 1, False)
    if prompted is None or answered is None or not _agree_before(prompted, written, place):
        return None
    return Prompt(prompted.literals[-1], prompted.forbidden_substrings | answered.forbidden_substrings)


def is_ended(template: ChatTemplate, behind: str) -> bool:
    """Return True if what is written behind an answer ends its turn, whatever its text and whatever follows."""
    profile = template.profile
    if profile.ending:
        return True
    found = find_control_text(behind, profile.controls)[:1]
    return any(not start and token in profile.stops for start, _, token in found)


def _agree_before(prompted: Literals, written: Literals, place: int) -> bool:
    """Return True if a conversation up to a turn is how the whole of it begins for any text, or for none."""
    if prompted.literals[:-1] == written.literals[:place]:
        return prompted.slots == written.slots[:place]
    return not "".join(written.literals).startswith(
        "".join(prompted.literals)
    )  # Qwen 3: the last answer has a thought


def find_supplied(template: ChatTemplate, prompt: str, opening: str) -> str:
    r"""Return the tag that a generation prompt writes behind the opening of an answer (`<think>`), or "".

    An answer without that tag begins behind the opening: no prompt supplies a part of it.
    """
    rest = prompt.removeprefix(opening).rstrip() if prompt.startswith(opening) else ""
    return rest if rest.endswith(">") and not find_control_text(rest, template.controls) else ""


def keeps_opening(template: ChatTemplate, opening: str) -> bool:
    """Return True if no normalizer changes what stands behind the last control token in front of an answer."""
    found = find_control_text(opening, template.controls)
    return opening[found[-1][1] if found else 0 :].isascii()
