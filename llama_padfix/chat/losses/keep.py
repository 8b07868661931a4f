"""The arguments with which a chat template writes the thoughts of every turn, found by rendering.

Many templates drop thoughts from the history, so that they are not trained. Some keep them if an argument asks for it;
for some TRL ships a variant that keeps them. Whether one does is seen in a rendering.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llama_padfix.chat.losses.held import find_losses
from llama_padfix.chat.profile.template_probes import CALL
from llama_padfix.chat.profile.template_profile import read_sources
from llama_padfix.chat.render import Rendered
from llama_padfix.chat.trace import read_trace
from llama_padfix.chat.traced_render import REASONING_KEYS, render_traced
from llama_padfix.core.errors import PadfixError

if TYPE_CHECKING:
    from llama_padfix.core.types import MessageDict, TokenizerLike

# The arguments of templates that keep the thoughts of earlier turns.
_SWITCHES: tuple[Mapping[str, bool], ...] = (
    {"preserve_thinking": True},
    {"clear_thinking": False},
    {"truncate_history_thinking": False},
    {"keep_past_thinking": True},
)
_FORMS = ("content", REASONING_KEYS[0])


def keep_reasoning(tokenizer: TokenizerLike, kwargs: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the arguments with which the template is seen to write the thoughts of all turns.

    Thoughts are looked for in content and in `reasoning_content`, and beside a tool call; the first arguments that
    keep the most are taken. A template that keeps them as it is gets no other arguments. The tokenizer is not changed.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        kwargs: The arguments of every rendering so far.

    Raises:
        PadfixError: No arguments are found.
    """
    given = dict(kwargs or {})
    if not (getattr(tokenizer, "chat_template", None) or given.get("chat_template")):
        return given  # nothing is rendered
    best: tuple[int, dict[str, object]] = (0, {})
    for found in _ways(tokenizer, given):
        kept = sum(_keeps(tokenizer, found, form) for form in _FORMS)
        if kept > best[0]:
            best = kept, found
        if kept == 3 * len(_FORMS):
            break
    if not best[0]:
        raise PadfixError(
            "keep_reasoning=True: the chat template leaves out the thoughts of earlier turns, it has no argument that "
            "keeps them, and the installed TRL has no variant of it that does (pip install -U trl). Pass one that "
            "writes them: template_kwargs={'chat_template': ...}"
        )
    return best[1]


def _ways(tokenizer: TokenizerLike, kwargs: dict[str, object]) -> Iterator[dict[str, object]]:
    """Yield arguments that may keep thoughts: those given, a switch of the template, TRL's variant of it."""
    yield kwargs
    variant = _find_variant(tokenizer, kwargs)
    for given in [kwargs] if variant is None else [kwargs, {**kwargs, "chat_template": variant}]:
        if given is not kwargs:
            yield given
        source = read_sources(tokenizer, given)
        for switch in _SWITCHES:
            if all(name in source and name not in given for name in switch):
                yield {**given, **switch}


def _find_variant(tokenizer: TokenizerLike, kwargs: Mapping[str, object]) -> str | None:
    """Return the template that TRL trains with in place of the tokenizer's; None where it knows none."""
    try:
        from trl import get_training_chat_template
    except ImportError:  # not installed, or older than these variants
        return None
    asked: Any = copy.copy(tokenizer)  # a tokenizer of any class
    asked.chat_template = kwargs.get("chat_template", tokenizer.chat_template)
    try:
        found = get_training_chat_template(asked)
    except Exception:  # it knows the template not, or renders what the template refuses
        return None
    return None if found is None else str(found)


def _keeps(tokenizer: TokenizerLike, kwargs: Mapping[str, object], form: str) -> int:
    """Return 2 if the template writes the thoughts of two turns, 3 if also that beside a tool call, else 0."""
    turns: list[MessageDict] = []
    for number in range(2):
        answer = {"role": "assistant", "content": f"Probeanswer {number}"}
        thought = f"Probethought {number}"
        if form == "content":
            answer["content"] = f"<think>\n{thought}\n</think>\n\n{answer['content']}"
        else:
            answer[form] = thought
        turns += [{"role": "user", "content": f"Probequestion {number}"}, answer]
    if _lost(tokenizer, kwargs, turns) != []:
        return 0
    called = [*turns[:1], {**turns[1], "tool_calls": [CALL]}, {"role": "tool", "name": "look", "content": "blue"}]
    with_call = _lost(tokenizer, kwargs, [*called, {"role": "assistant", "content": "Blue"}, *turns[2:]])
    return 2 + (with_call is not None and "lost_reasoning" not in with_call)


def _lost(tokenizer: TokenizerLike, kwargs: Mapping[str, object], messages: list[MessageDict]) -> list[str] | None:
    """Return the kinds of what the template leaves out; None where it refuses the conversation."""
    try:
        trace = read_trace(render_traced(tokenizer, messages, None, kwargs))
    except Exception:  # a template is a program of its author: it may raise anything
        return None
    rendered = Rendered(trace.text, (), content_spans=trace.text_spans)
    return [loss.kind for loss in find_losses(messages, None, rendered)]
