"""What a template writes around symbolic texts and objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.symbolic_slots import ObjectOpened, Slot, TemplateBranched
from llama_padfix.chat.traced_render import source_of
from llama_padfix.core.compat import gives_clock

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate


@dataclass(frozen=True)
class Literals:
    """What a template writes around texts: one literal more than slots."""

    literals: tuple[str, ...]
    slots: tuple[Slot, ...]
    forbidden_substrings: frozenset[str]


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
    try:
        written = render(source_of(template.tokenizer, tools, kwargs), context, gives_clock(template.tokenizer))
        "".join((*written.literals, *written.forbidden_substrings)).encode()  # half of a surrogate pair has no ids
    except ObjectOpened:
        raise
    except (TemplateBranched, Exception):  # a template is a user's program: it may raise anything
        return None
    return written
