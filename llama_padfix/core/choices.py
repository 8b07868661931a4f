"""Decisions made for the user, with their reasons: one line each, printed where a notebook shows it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llama_padfix.core.html import html_block, html_table
from llama_padfix.core.records import short_repr

logger = logging.getLogger(__name__)

Level = Literal["info", "warning"]


@dataclass(frozen=True)
class Choice:
    """One decision: what it is about, what was taken, and the reason.

    A request that could not be met is a choice of level "warning".
    """

    about: str
    taken: str
    reason: str
    level: Level = "info"

    __repr__ = short_repr

    def __str__(self) -> str:
        return f"{self.about}: {self.taken} ({self.reason})"

    def _repr_html_(self) -> str:
        return choices_html((self,))


def choices_html(choices: Iterable[Choice]) -> str:
    """Return choices as a table for a notebook."""
    return html_block(html_table(("about", "taken", "reason"), ((c.about, c.taken, c.reason) for c in choices)))


def announce(choices: Iterable[Choice], *, verbose: bool = True) -> None:
    """Print each choice in a line of its own on stdout, in the first process of a launch only; warnings are logged.

    A warning goes through `logging`, which shows it whether `verbose` or not; the other choices are logged at the
    level INFO when they are not printed.
    """
    printed = verbose and os.environ.get("RANK", "0") == "0"
    for choice in choices:
        if choice.level == "warning":
            logger.warning("llama_padfix: %s", choice)
        elif printed:
            # A notebook shows what is printed; it hides what is only logged.
            print(f"llama_padfix: {choice}", flush=True)  # noqa: T201
        else:
            logger.info("llama_padfix: %s", choice)
