"""What `diagnose` is given, as facts and rows: one function for each kind of target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_padfix.doctor.facts import Facts, RowFacts, SampleFacts
from llama_padfix.doctor.observe.batches import draw_batches, preserve_state
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.doctor.observe.folder import read_folder, saved_model
from llama_padfix.doctor.observe.rows import holds_rows, observe_dataset, refuse_unencoded
from llama_padfix.doctor.observe.tokenizer import make_decoder, observe_pair, observe_tokenizer
from llama_padfix.doctor.observe.trainer import find_tokenizer_of, is_trainer, observe_trainer
from llama_padfix.encoding.sources import is_encoded, rows_of_mapping

if TYPE_CHECKING:
    from llama_padfix.core.types import ConfiguredModel, TokenizerLike, TrainerLike


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

    is_folder: bool = False
    """A saved folder was observed, which is never changed in place."""

    @property
    def decode(self) -> Callable[[Sequence[int]], str]:
        """Return the function that shows ids as text."""
        return make_decoder(self.tokenizer)


@contextmanager
def observe_target(
    target: object, model: ConfiguredModel | None = None, dataset: object = None, max_rows: int | None = 1000
) -> Iterator[Observation]:
    """Observe a target of any kind, with the model and the rows beside it; what reading rows moves is put back.

    Args:
        target: what `diagnose` takes.
        model: the model of a tokenizer.
        dataset: rows beside a tokenizer or folder: encoded, raw, or one batch.
        max_rows: the most rows to read; None for all.

    Raises:
        PadfixError: the target is of another kind.
    """
    with preserve_state(target):
        observation = _observe(target, model, dataset, max_rows)
        yield replace(observation, facts=replace(observation.facts, environment=observe_environment()))


# `Any`: a tokenizer, once every other kind is excluded.
def _observe(target: Any, model: ConfiguredModel | None, dataset: object, max_rows: int | None) -> Observation:
    if isinstance(target, (str, Path)):
        return _observe_saved(target, dataset, max_rows)
    if is_trainer(target):
        return _observe_run(target, max_rows)
    if isinstance(target, tuple) and len(target) == 2 and not isinstance(target[0], Mapping):
        target, model = target
    if isinstance(target, Mapping) and isinstance(ids := target.get("input_ids"), (list, tuple)) and ids:
        target = rows_of_mapping(target)  # what a tokenizer returns for one text or for several
    if holds_rows(target) or is_encoded(target):
        return Observation(*observe_dataset(Facts(), target, None, max_rows))
    refuse_unencoded(target)
    facts = observe_tokenizer(target, model, with_markers=True)
    return Observation(*observe_dataset(facts, dataset, target, max_rows), tokenizer=target, model=model)


def _observe_saved(path: str | Path, dataset: object, max_rows: int | None) -> Observation:
    tokenizer, folder = read_folder(path, exact=dataset is not None)
    model = saved_model(folder)
    facts = replace(observe_pair(tokenizer, model), folder=folder)
    facts, rows = observe_dataset(facts, dataset, tokenizer, max_rows)
    return Observation(facts, rows, tokenizer=tokenizer, model=model, is_folder=True)


def _observe_run(trainer: TrainerLike, max_rows: int | None) -> Observation:
    tokenizer = find_tokenizer_of(trainer)
    facts = observe_pair(tokenizer, trainer.model, getattr(trainer, "optimizer", None))
    at_rest = observe_trainer(trainer)
    drawn = draw_batches(trainer, max_rows)

    def complete(facts: Facts) -> Facts:
        observed = replace(at_rest, loader_errors=drawn.errors, not_drawn=drawn.not_drawn)
        return replace(facts, trainer=observed, samples=tuple(drawn.samples))

    # With one source, although nothing is drawn yet, the checks of rows are not skipped.
    facts = replace(facts, trainer=at_rest, samples=(SampleFacts("train batch", 0, None),))
    return Observation(facts, drawn.rows, complete, tokenizer, trainer.model)
