"""How messages hold thoughts, in keys and in their content, and the empty thoughts that a template writes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from llama_padfix.chat.messages import content_texts
from llama_padfix.chat.profile.template_probes import ASSISTANT, USER
from llama_padfix.chat.traced_render import REASONING_KEYS
from llama_padfix.tokens.calls import apply_template

if TYPE_CHECKING:
    from llama_padfix.chat.render import Rendered
    from llama_padfix.core.types import Message, Messages, TokenizerLike

TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
CLOSERS = tuple(close for _, close in TAGS)
"""What closes a thought. A text that holds one speaks of thoughts itself: an empty one before it is not counted."""
OPENERS = tuple(opening for opening, _ in TAGS)
# A thought is opened and closed, or opened and cut off, or opened by the prompt and only closed.
_THOUGHT = re.compile(
    "|".join(
        f"{opening}(?P<whole{n}>.*?)(?:{close}|\\Z)|\\A(?P<rest{n}>(?:(?!{opening}).)*?){close}"
        for n, (opening, close) in enumerate((re.escape(one), re.escape(two)) for one, two in TAGS)
    ),
    re.DOTALL,
)
_EMPTY = re.compile(r"\s*(?:" + "|".join(f"(?:{re.escape(one)})?\\s*{re.escape(two)}" for one, two in TAGS) + ")")
_SWITCHES = ("enable_thinking", "thinking")  # arguments of templates that decide whether the model thinks


def split_thoughts(text: str) -> tuple[list[str], list[str]]:
    """Return the thoughts in an assistant's text, and the texts around them; neither holds blank ones."""
    if not any(tag in text for tag in CLOSERS + OPENERS):
        return [], [text] if text.strip() else []
    thoughts, rest, position = list[str](), list[str](), 0
    for match in _THOUGHT.finditer(text):
        rest.append(text[position : match.start()])
        thoughts.append(match.group(str(match.lastgroup)))
        position = match.end()
    rest.append(text[position:])
    return [one for one in thoughts if one.strip()], [one for one in rest if one.strip()]


def keyed_thoughts(message: Message) -> dict[str, str]:
    """Return the thoughts in a message's own keys; one that stands under several keys, once."""
    found: dict[str, str] = {}
    for key in REASONING_KEYS:
        thought = message.get(key)
        if isinstance(thought, str) and thought.strip() and thought not in found.values():
            found[key] = thought
    return found


def find_empty_thoughts(messages: Messages, rendered: Rendered, trained: Collection[int]) -> list[int]:
    r"""Return the trained messages without a thought for which the template writes an empty one into their turn.

    `<think>\n\n</think>\n\nYes`, or `</think>\n\nYes` behind a prompt that opens the thought (Qwen 3)
    """
    found: list[int] = []
    seen: set[int] = set()
    for turn in rendered.turns:
        if turn.message in seen or turn.message not in trained:
            continue
        seen.add(turn.message)
        if _EMPTY.match(rendered.text, turn.start, turn.end) and not _speaks_of_thoughts(messages[turn.message]):
            found.append(turn.message)
    return found


def _speaks_of_thoughts(message: Message) -> bool:
    """Return True if a message holds a thought, or says itself that it has none."""
    text = "".join(content_texts(message.get("content")))
    return bool(keyed_thoughts(message)) or any(close in text for close in CLOSERS)


def find_quiet_kwargs(tokenizer: TokenizerLike, source: str, kwargs: Mapping[str, object]) -> dict[str, bool]:
    """Return the argument with which the template's generation prompt holds the empty thought; {} without such.

    `source` is the template's. The history must agree with that prompt, so that the empty thought is not trained.
    """
    for name in _SWITCHES:
        if not re.search(rf"\b{name}\b", source) or name in kwargs:
            continue
        given = {**kwargs, name: False}
        try:
            prompt = apply_template(tokenizer, [USER], add_generation_prompt=True, template_kwargs=given)
            whole = apply_template(tokenizer, [USER, ASSISTANT], template_kwargs=given)
        except Exception:  # a template is a program of its author: it may raise anything
            continue
        if whole.startswith(prompt) and not _EMPTY.match(whole, len(prompt)) and prompt.rstrip().endswith(CLOSERS):
            return {name: False}
    return {}
