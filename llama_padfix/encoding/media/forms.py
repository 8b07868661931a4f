"""The form of content that a chat template reads: a text, a list of parts, or both; some know one of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

from llama_padfix.tokens.calls import render_or_none

if TYPE_CHECKING:
    from llama_padfix.core.types import MessageDict, TokenizerLike

_QUESTION, _ANSWER = "padfix asks", "padfix answers"


class ContentForms:
    """Which forms a template reads in questions and in answers, found by rendering."""

    def __init__(self, tokenizer: TokenizerLike, template_kwargs: Mapping[str, object]) -> None:
        self._lists: set[tuple[bool, bool]] = set()  # for (answer, list)
        for asks, answers in product((False, True), repeat=2):
            messages = [
                {"role": role, "content": _as_parts(text) if as_list else text}
                for role, text, as_list in (("user", _QUESTION, asks), ("assistant", _ANSWER, answers))
            ]
            text = render_or_none(tokenizer, messages, template_kwargs) or ""
            if _QUESTION in text and _ANSWER in text and "'text'" not in text:
                self._lists |= {(False, asks), (True, answers)}

    def adapt(self, message: MessageDict) -> MessageDict:
        """Return a message in the form that is read: as it is where that is possible."""
        content, answer = message.get("content"), message["role"] == "assistant"
        if isinstance(content, str):
            if (answer, False) not in self._lists and (answer, True) in self._lists:
                return {**message, "content": _as_parts(content)}
        elif (
            isinstance(content, list)
            and [*map(set, content)] == [{"type", "text"}]
            and (answer, True) not in self._lists
            and (answer, False) in self._lists
        ):
            return {**message, "content": content[0]["text"]}
        return message


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
