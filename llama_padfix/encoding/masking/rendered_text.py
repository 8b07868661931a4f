"""Chats that were rendered before they came here: which texts are one, and what of them the model must produce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_padfix.chat.profile.template_profile import observe_template
from llama_padfix.tokens.control import TEXT_END_TOKEN, special_ids

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike
    from llama_padfix.tokens.offsets import StartEnd


@dataclass(frozen=True)
class RenderedMarks:
    """What a chat template writes around an answer, as text."""

    header: str
    """What opens an answer, in the history too."""
    supplied: str
    """What the generation prompt writes behind the header, such as an opened `<think>`."""
    stops: tuple[str, ...]
    """What ends an answer; the first one ends a last answer."""
    others: tuple[str, ...]
    """What opens a turn of another role."""
    starts: tuple[str, ...]
    """What a rendered chat begins with."""

    def find_answers(self, text: str, start: int = 0, *, is_open: bool = False) -> list[StartEnd]:
        """Return the spans of the answers behind `start`, each up to and including its stop token.

        With `is_open` an answer goes on at `start`.
        """
        spans: list[StartEnd] = []
        first = start if is_open else self._find_answer(text, start)
        while first >= 0:
            end = self._find_end(text, first)
            spans.append((first, end))
            first = self._find_answer(text, end)
        return spans

    def find_completion(self, prompt: str, completion: str) -> tuple[str, list[StartEnd]] | None:
        """Return a rendered prompt with its completion as one text, and the spans of its answers.

        None where the prompt is no rendered chat. Two of three things show one: the prompt begins as a rendered chat,
        it ends with the generation prompt, and the completion ends with a stop token. Text that only quotes some of
        them shows one at most. A completion without a stop token is ended with the template's.
        """
        at = prompt.rfind(self.header)
        tail = prompt[at + len(self.header) :]
        is_open = at >= 0 and self._find_end(tail, 0) == len(tail) and not tail.endswith(self.stops)
        if not is_open and not completion.lstrip().startswith(self.header):
            return None
        is_prompt = is_open and tail.strip() in ("", self.supplied.strip())
        stopped = completion.rstrip().endswith(self.stops)
        if prompt.lstrip().startswith(self.starts) + is_prompt + stopped < 2:
            return None
        text = prompt + completion + ("" if stopped else self.stops[0])
        return text, self.find_answers(text, len(prompt), is_open=is_open)

    def _find_answer(self, text: str, start: int) -> int:
        """Return where the next answer begins; -1 where none does."""
        at = text.find(self.header, start)
        if at < 0:
            return at
        at += len(self.header)
        return at + len(self.supplied) if text.startswith(self.supplied, at) else at

    def _find_end(self, text: str, start: int) -> int:
        """Return where an answer ends: behind its stop token, before another role's turn, or with the text."""
        ends = [at + len(stop) for stop in self.stops if (at := text.find(stop, start)) >= 0]
        ends += [at for other in self.others if (at := text.find(other, start)) >= 0]
        end = min(ends, default=len(text))
        while closing := next((stop for stop in self.stops if text.startswith(stop, end)), None):
            end += len(closing)  # several tokens may close a turn
        return end


def observe_marks(tokenizer: TokenizerLike, template_kwargs: Mapping[str, object]) -> RenderedMarks | None:
    """Return what the tokenizer's chat template writes around an answer; None where it has no marks of its own."""
    profile = observe_template(tokenizer, template_kwargs)
    if profile is None or profile.error is not None or profile.stop_token is None:
        return None
    header = profile.history_header or profile.header
    if not header:
        return None
    supplied = profile.prompt.removeprefix(header) if profile.prompt.startswith(header) else ""
    specials = special_ids(tokenizer)
    ends = [profile.stop_token, tokenizer.eos_token or profile.stop_token]
    ends += [token for token in ("<|eom_id|>", TEXT_END_TOKEN) if token in specials]
    others = [text.strip() for role, text in profile.role_headers.items() if role != "assistant" and text.strip()]
    # A system prompt of the template's own follows the header of its role.
    openers = [*others, *(token for token in specials if any(text.startswith(token) for text in others))]
    starts = [*openers, *([tokenizer.bos_token] if tokenizer.bos_token else [])]
    return RenderedMarks(header, supplied, tuple(dict.fromkeys(ends)), tuple(others), tuple(dict.fromkeys(starts)))
