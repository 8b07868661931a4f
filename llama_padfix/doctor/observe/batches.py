"""Real batches of a trainer's dataloaders, with the trainer left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from llama_padfix.doctor.facts import RowFacts, SampleFacts
from llama_padfix.doctor.observe.losses.rollouts import (
    describe_rollouts,
    holds_prompts,
    rows_of_prompts,
    samples_completions,
)
from llama_padfix.doctor.observe.rows import rows_of_batch
from llama_padfix.doctor.observe.snapshot import find_read_once, remember_state
from llama_padfix.doctor.observe.trainer import find_tokenizer_of, is_trainer
from llama_padfix.hardware.random_states import remember_random_states

if TYPE_CHECKING:
    from llama_padfix.core.types import TrainerLike

_FEW_ROWS = 64  # drawn from each of a trainer's dataloaders: collating a batch takes time


@dataclass
class DrawnRows:
    """Rows of a trainer's dataloaders; the other fields are complete once `rows` is used up."""

    rows: Iterator[RowFacts] = field(default_factory=lambda: iter(()))
    samples: list[SampleFacts] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    not_drawn: dict[str, str] = field(default_factory=dict)


def draw_batches(trainer: TrainerLike, max_rows: int | None) -> DrawnRows:
    """Return the rows of real training and evaluation batches, not yet drawn; at most 64 of each unless None.

    A loader that raises ends its source and is noted in `errors`; what reads from something that can be read only
    once, and batches without `input_ids`, are noted in `not_drawn`.
    """
    drawn = DrawnRows()
    drawn.rows = _draw(trainer, None if max_rows is None else min(max_rows, _FEW_ROWS), drawn)
    return drawn


@dataclass
class _Source:
    """What was seen of the rows of one source."""

    count: int = 0
    beginnings: set[tuple[int, int]] = field(default_factory=set)
    ends: set[int] = field(default_factory=set)

    def add(self, row: RowFacts) -> None:
        """Note how a row begins, and with which id its trained part ends."""
        self.count += 1
        ids = row.input_ids if row.attention_mask is None else row.input_ids[row.attention_mask != 0]
        if len(ids) > 1:
            self.beginnings.add((int(ids[0]), int(ids[1])))
        if row.labels is not None and row.trained.any():
            self.ends.add(int(row.labels[row.trained][-1]))


def _draw(trainer: TrainerLike, limit: int | None, drawn: DrawnRows) -> Iterator[RowFacts]:
    for source, make_loader, dataset in _loaders(trainer):
        total = len(dataset) if hasattr(dataset, "__len__") else None
        columns = tuple(getattr(dataset, "column_names", None) or ())
        read = partial(_rows, trainer=trainer, source=source, pairs={"chosen_ids", "rejected_ids"} <= {*columns})
        why = _why_not_drawn(trainer, dataset)
        names: dict[str, None] = {}
        found: dict[str, _Source] = {}
        seen = 0
        if why is not None:
            drawn.not_drawn[source] = why
        else:
            try:
                for batch in _batches(make_loader):
                    first = max((part.count for part in found.values()), default=0)
                    for row in islice(read(batch, first=first), None if limit is None else limit - seen):
                        seen += 1
                        found.setdefault(row.source, _Source()).add(row)
                        yield row
                    names.update(dict.fromkeys(batch if isinstance(batch, Mapping) else ()))
                    if seen == limit or not seen:
                        break
            except Exception as error:
                drawn.errors[source] = f"{type(error).__name__}: {error}"
            if not seen and source not in drawn.errors:
                held = ", ".join(map(str, names)) or "none"
                drawn.not_drawn[source] = f"its batches hold no input_ids of rows (they hold: {held})"
        for name, part in (found or {source: _Source()}).items():
            sample = SampleFacts(name, part.count, total, columns or tuple(names), drawn.not_drawn.get(source))
            begun = frozenset(part.beginnings)
            drawn.samples.append(replace(sample, beginnings=begun, trained_ends=frozenset(part.ends)))
        if samples_completions(trainer):
            drawn.samples.append(SampleFacts(f"{source}, rollout", 0, None, (), describe_rollouts(trainer)))


def _why_not_drawn(trainer: TrainerLike, dataset: object) -> str | None:
    """Return which part reads from something whose place cannot be put back; None where all can be."""
    parts = ("train_dataset", "eval_dataset", "data_collator")
    own = [value for name, value in vars(trainer).items() if name not in parts]
    for part, owners, seeks in (
        ("dataset", (dataset,), hasattr(dataset, "__len__")),
        ("collator", (trainer.data_collator,), True),
        ("trainer", (type(trainer), *own), True),
    ):
        if (held := find_read_once(*owners, seeks=seeks)) is not None:
            return f"its {part} reads from a {held}, which can be read only once"
    return None


def _loaders(trainer: TrainerLike) -> Iterator[tuple[str, Callable[[], Iterable[object]], object]]:
    if trainer.train_dataset is not None:
        yield "train batch", trainer.get_train_dataloader, trainer.train_dataset
    evaluation = getattr(trainer, "eval_dataset", None)
    if isinstance(evaluation, dict):
        for name, dataset in evaluation.items():
            yield f"eval batch ({name})", partial(trainer.get_eval_dataloader, name), dataset
    elif evaluation is not None:
        yield "eval batch", trainer.get_eval_dataloader, evaluation


def _batches(make_loader: Callable[[], Iterable[object]]) -> Iterator[object]:
    """Yield the batches of a loader, and end its workers when the reader stops."""
    batches = iter(make_loader())
    try:
        yield from batches
    finally:
        if hasattr(batches, "close"):
            batches.close()


def _rows(batch: object, *, trainer: TrainerLike, source: str, first: int, pairs: bool) -> Iterator[RowFacts]:
    """Yield the rows of a batch; of its columns, those that have one value for each token."""
    if samples_completions(trainer) and holds_prompts(batch):
        yield from rows_of_prompts(trainer, find_tokenizer_of(trainer), batch, source, first)
        return
    if isinstance(batch, Mapping):  # labels of another shape than the ids are those of another task
        shape = _shape(batch.get("input_ids"))
        batch = {name: held for name, held in batch.items() if name != "labels" or _shape(held) == shape}
    yield from (row for row in rows_of_batch(batch, source, first, pairs=pairs) if len(row.input_ids))


def _shape(held: object) -> object:
    return getattr(held, "shape", None)


@contextlib.contextmanager
def preserve_state(target: object) -> Iterator[None]:
    """Put back the state that drawing batches of a trainer changes; a target of another kind has none.

    That is the global random states, the accelerator's record of dataloaders, and what `remember_state` names of the
    trainer, its samplers, datasets and collator. Training then runs as if no batch had been drawn.
    """
    if not is_trainer(target):
        yield
        return
    restore_random_states = remember_random_states()
    accelerator, gradient_state = target.accelerator, target.accelerator.gradient_state
    restore = remember_state(
        target.train_dataset,
        getattr(target, "eval_dataset", None),
        target.data_collator,
        target,
        shallow=(target.args, accelerator, gradient_state),
    )
    try:
        yield
    finally:
        restore()
        restore_random_states()
