"""One answer that was generated greedily: where it ended, or how near an end was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Miss: TypeAlias = Literal["not a stop", "as text", "held back", "not trained", "never first"]
"""Why an answer did not end, the most certain reason first."""

MISSES: tuple[Miss, ...] = ("not a stop", "as text", "held back", "not trained", "never first")


@dataclass(frozen=True)
class NearestEnd:
    """The step at which an end was nearest to being generated, by the scores before any setting changed them."""

    at: int
    """The number of the step, from 0."""

    token_id: int
    """The end with the highest score there."""

    rank: int
    """How many tokens had a higher score: 0 where the end was first."""

    probability: float
    """Its probability there."""


@dataclass(frozen=True)
class GeneratedAnswer:
    """What greedy generation made of one prompt."""

    prompt: int
    """The number of the prompt, from 0."""

    prompt_tokens: int
    """How many tokens the prompt has."""

    new_tokens: int
    """How many tokens were generated."""

    limit: int
    """How many could have been."""

    stopped_at: int | None
    """The id at which generation ended; None where it did not, or ended at a stop string."""

    ended: bool
    """Whether generation ended by itself."""

    nearest: NearestEnd | None
    """Where an end was nearest; None where no token is known to be one."""

    passed: tuple[int, int] | None = None
    """Step and id of the first end that was generated and is no stop; in an answer that ended, of a trained end."""

    as_text: str | None = None
    """The text of an end that was generated letter by letter."""

    end_trained: bool | None = None
    """Whether the run trained an end behind this answer; None where that is not known."""

    tail: str = ""
    """The last part of the answer, as text."""

    @property
    def miss(self) -> Miss | None:
        """Why the answer did not end, or not at its first end; None where it did."""
        if self.passed is not None:
            return "not a stop"
        if self.ended:
            return None
        if self.as_text is not None:
            return "as text"
        if self.nearest is not None and self.nearest.rank == 0:
            return "held back"
        return "not trained" if self.end_trained is False else "never first"
