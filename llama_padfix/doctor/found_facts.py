"""What was found beside the main parts of a target. `facts` re-exports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OtherTokenizer:
    """A tokenizer that a run holds beside the one that was observed, and that differs from it."""

    where: str
    """The place in which it was found, such as `trainer.data_collator.tokenizer`."""

    differences: tuple[tuple[str, str, str], ...]
    """What differs, each with the value of the observed tokenizer and that of this one."""
