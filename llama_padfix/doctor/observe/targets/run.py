"""A trainer as an observation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.facts import Facts, SampleFacts, TrainerFacts
from llama_padfix.doctor.observe.batches import draw_batches
from llama_padfix.doctor.observe.targets.observation import Beside, Observation
from llama_padfix.doctor.observe.targets.tokenizer_search import KnownTokenizers, choose_tokenizer
from llama_padfix.doctor.observe.tokenizer import observe_pair
from llama_padfix.doctor.observe.trainer import find_tokenizer_of, observe_trainer

if TYPE_CHECKING:
    from llama_padfix.core.types import TrainerLike

# Functions that see predictions and no batch; `callback_handler` keeps what the trainer began with.
_LAST = ("compute_metrics", "preprocess_logits_for_metrics", "callback_handler")


def observe_run(trainer: TrainerLike, beside: Beside, max_rows: int | None) -> Observation:
    """Observe a trainer: its settings now, and its batches while the rows are read.

    Args:
        trainer: a trainer of transformers or TRL, or one of its subclasses.
        beside: what was given beside it: a tokenizer, an optimizer.
        max_rows: the most rows to read of each of its dataloaders; None for all.

    Raises:
        PadfixError: rows or another model were given, which a trainer brings itself.
    """
    if beside.dataset is not None or beside.model not in (None, trainer.model):
        name = "dataset" if beside.dataset is not None else "model"
        raise PadfixError(
            f"A trainer brings its own {name}, so {name}= has no meaning beside it. Diagnose it alone: "
            f"diagnose(trainer), or the {name} with its tokenizer: diagnose(tokenizer, {name}=...)"
        )
    known = _choose_tokenizer(trainer, beside)
    optimizer = beside.optimizer if beside.optimizer is not None else getattr(trainer, "optimizer", None)
    facts = known.add_to(observe_pair(known.tokenizer, trainer.model, optimizer))
    at_rest = observe_trainer(trainer)
    drawn = draw_batches(trainer, max_rows)

    def complete(facts: Facts) -> Facts:
        observed = replace(at_rest, loader_errors=drawn.errors, not_drawn=drawn.not_drawn)
        return replace(facts, trainer=observed, samples=tuple(drawn.samples))

    # With one source, although nothing is drawn yet, the checks of rows are not skipped.
    if at_rest.own_loss is not None:
        facts = replace(facts, notes=(*facts.notes, _describe_loss(at_rest)))
    facts = replace(facts, trainer=at_rest, samples=(SampleFacts("train batch", 0, None),))
    collators = {"trainer.data_collator": trainer.data_collator}
    made = Observation(facts, drawn.rows, complete, known.tokenizer, trainer.model, trainer, collators)
    return made.with_held_ids()


def _describe_loss(trainer: TrainerFacts) -> str:
    """Return what is known of an own loss."""
    name, shifts = trainer.own_loss, trainer.own_loss_shifts
    if shifts is None:
        return f"The loss is that of {name}: what it makes of labels is not known."
    return (
        f"The loss is that of {name}: tried on made-up logits, it {'shifts' if shifts else 'does not shift'} labels."
    )


def _choose_tokenizer(trainer: TrainerLike, beside: Beside) -> KnownTokenizers:
    """Return the tokenizer of a trainer: its own, its collator's, or that of whatever else it holds.

    What only looks at predictions is searched where nothing else holds one.
    """
    given = beside.tokenizer
    known = choose_tokenizer(given, *_places(trainer))
    if known.tokenizer is not None:
        return known
    return choose_tokenizer(None, *((f"trainer.{name}", getattr(trainer, name, None)) for name in _LAST))


def _places(trainer: TrainerLike) -> Iterator[tuple[str, object]]:
    """Yield what may hold the tokenizer, the likeliest first, without what a class makes when it is asked."""
    attributes = vars(trainer)
    yield (
        "trainer.processing_class" if "processing_class" in attributes else "trainer.tokenizer",
        find_tokenizer_of(trainer),
    )
    first = ("data_collator", "train_dataset", "eval_dataset")
    yield from ((f"trainer.{name}", attributes.get(name)) for name in first)
    yield from ((f"trainer.{name}", value) for name, value in attributes.items() if name not in (*first, *_LAST))
    yield from ((kind.__name__, kind) for kind in type(trainer).__mro__)
