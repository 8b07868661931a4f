"""Which added tokens part a rendered text wherever they stand, and which could be made by a text and its neighbor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_padfix.tokens.control import find_control_text, rewrites_text

if TYPE_CHECKING:
    from llama_padfix.chat.render import ChatTemplate
    from llama_padfix.core.types import AddedTokenLike


@dataclass
class CutTokens:
    """The added tokens of a tokenizer, and what was found out about those at which a template's texts are cut.

    `hidden` are the control tokens and tags that a text may spell unseen in the ids: in a word, or before it is
    normalized.
    """

    added: Mapping[str, AddedTokenLike]
    hidden: tuple[str, ...]
    rewrites: bool
    """Whether a normalizer changes texts."""
    controls: tuple[str, ...]
    tags: tuple[str, ...]
    _ends: dict[str, int | None] = field(default_factory=dict)
    _exact: dict[str, bool] = field(default_factory=dict)

    def find_end(self, literal: str) -> int | None:
        """Return where the first control token of a literal ends, or else its first tag; 0 where it has neither.

        None where that token is not cut out of every text.
        """
        if literal not in self._ends:
            found = find_control_text(literal, self.controls) or find_control_text(literal, self.tags)
            _, end, token = found[0] if found else (0, 0, "")
            if token and token not in self._exact:
                self._exact[token] = self._is_cut_exactly(token)
            self._ends[literal] = end if self._exact.get(token, True) else None
        return self._ends[literal]

    def _is_cut_exactly(self, token: str) -> bool:
        """Return True if a token is cut out of every text exactly where it stands, with nothing around it."""
        flags = self.added.get(token)
        if flags is None or flags.lstrip or flags.rstrip or flags.single_word or (flags.normalized and self.rewrites):
            return False
        others = [other for other in self.added if other != token]
        # Of added tokens the one that begins first is taken, and the longest of those.
        if any(token in other for other in others) or _begins_with_rest([*self.added], token):
            return False
        if not flags.normalized:
            return True
        first = [other for other in others if not self.added[other].normalized]  # those are taken before all others
        return not any(other in token for other in first) and not _ends_with_beginning(first, token)

    def may_complete(self, before: str, after: str, *, is_between: bool) -> bool:
        """Return True if a text between these two could make a hidden token with them, unseen in the ids.

        `is_between`: another text follows `after`, with which it could make one too.
        """
        return bool(self.hidden) and (
            _ends_with_beginning(self.hidden, before)
            or _begins_with_rest(self.hidden, after)
            or (is_between and any(after in word for word in self.hidden))
        )


def read_cut_tokens(template: ChatTemplate) -> CutTokens:
    """Return the added tokens of a template's tokenizer."""
    added = {str(token): token for token in template.tokenizer.added_tokens_decoder.values()}
    rewrites = rewrites_text(template.tokenizer)
    flags = [added[word] for word in template.controls + template.tags if word in added]
    hidden = tuple(str(token) for token in flags if token.single_word or (token.normalized and rewrites))
    return CutTokens(added, hidden, rewrites, template.controls, template.tags)


def _ends_with_beginning(words: Sequence[str], before: str) -> bool:
    """Return True if a text ends with a part of one of the words, so that what follows could complete it."""
    longest = max(map(len, words), default=0)
    ends = tuple(before[-length:] for length in range(1, min(len(before) + 1, longest)))
    return any(word[:-1].startswith(ends) for word in words)


def _begins_with_rest(words: Sequence[str], after: str) -> bool:
    """Return True if a text begins with the rest of one of the words, so that what stands before could complete it."""
    longest = max(map(len, words), default=0)
    beginnings = tuple(after[:length] for length in range(1, min(len(after) + 1, longest)))
    return any(word[1:].endswith(beginnings) for word in words)
