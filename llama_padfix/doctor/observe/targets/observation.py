"""What is known of a target, and the rows that are still to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llama_padfix.doctor.facts import Facts, RowFacts
from llama_padfix.doctor.observe.targets.held_ids import add_held_ids
from llama_padfix.doctor.observe.tokenizer import make_decoder
from llama_padfix.encoding.media.processor import is_processor

if TYPE_CHECKING:
    from llama_padfix.core.types import ConfiguredModel, TokenizerLike, TrainerLike
    from llama_padfix.doctor.findings import Check


@dataclass(frozen=True)
class Beside:
    """What was given beside a target."""

    tokenizer: TokenizerLike | None = None
    model: ConfiguredModel | None = None
    dataset: object = None
    optimizer: Any = None  # one of torch, or what wraps one
    processor: Any = None  # transformers.ProcessorMixin
    """What holds the tokenizer and reads the media of raw rows; None where a tokenizer was given alone."""

    def open_processor(self) -> Beside:
        """Return the same with the tokenizer that a processor in its place holds."""
        if not is_processor(found := self.tokenizer):
            return self
        return replace(self, tokenizer=found.tokenizer, processor=found)


@dataclass(frozen=True)
class Observation:
    """What is known of a target, and the rows that are still to be read."""

    facts: Facts
    """What was observed before any row was read."""

    rows: Iterable[RowFacts] = ()
    """The rows to read, once."""

    complete: Callable[[Facts], Facts] | None = None
    """Adds to the facts what is known only after the rows were read; None where nothing is."""

    tokenizer: TokenizerLike | None = None
    """The live tokenizer that changes apply to, None without one."""

    model: ConfiguredModel | None = None
    """The live model that changes apply to, None without one."""

    trainer: TrainerLike | None = None
    """The trainer, None where the target is another."""

    collators: Mapping[str, object] = field(default_factory=dict)
    """By name, the collator of a trainer, or the dataloaders whose collate functions may keep a pad id."""

    saved_as: str | None = None
    """What was saved, "folder" or "GGUF file", which is never changed in place; None for live objects."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why some checks are not asked, by the beginning of their codes."""

    @property
    def decode(self) -> Callable[[Sequence[int]], str]:
        """Return the function that shows ids as text."""
        return make_decoder(self.tokenizer)

    def with_held_ids(self) -> Observation:
        """Return the observation with the pad ids that its collators keep among the facts."""
        return replace(self, facts=add_held_ids(self.facts, self.collators))

    def leave_out(self, selected: Sequence[Check]) -> tuple[list[Check], dict[str, str]]:
        """Return the checks that are asked, and why others are not, by code."""
        starts = self.left_out.items()
        why = {check.code: why for check in selected for start, why in starts if check.code.startswith(start)}
        return [check for check in selected if check.code not in why], why
