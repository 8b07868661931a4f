"""Real batches of dataloaders, a trainer's or one alone, with what they read from left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from llama_padfix.doctor.facts import RowFacts, SampleFacts
from llama_padfix.doctor.observe.loader import is_loader, parts_of, read_loader
from llama_padfix.doctor.observe.losses.rollouts import (
    describe_rollouts,
    find_prompts,
    rows_of_prompts,
    samples_completions,
)
from llama_padfix.doctor.observe.reachable import is_leaf, is_own_code
from llama_padfix.doctor.observe.rows import count_documents, rows_of_batch
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


@dataclass(frozen=True)
class BatchSource:
    """A dataloader to draw from."""

    name: str
    """What its rows are called in findings."""

    make_loader: Callable[[], Iterable[object]]
    """Returns its batches."""

    dataset: object
    """What it reads."""

    why_not: str | None = None
    """Why nothing is drawn; None where batches are."""

    trainer: TrainerLike | None = None
    """Whose it is; None where it is no trainer's."""


def draw_batches(trainer: TrainerLike, max_rows: int | None) -> DrawnRows:
    """Return the rows of real training and evaluation batches, not yet drawn; at most 64 of each unless None."""
    return draw_sources(_loaders(trainer), max_rows)


def loader_source(loader: object, name: str) -> BatchSource:
    """Return a dataloader that belongs to no trainer as a source."""
    parts = parts_of(loader)
    dataset = parts.pop("dataset", None)
    why = _why_not_drawn(dataset=dataset, collator=parts.pop("collate_fn", None), sampler=tuple(parts.values()))
    return BatchSource(name, partial(read_loader, loader), dataset, why)


def draw_sources(sources: Iterable[BatchSource], max_rows: int | None) -> DrawnRows:
    """Return the rows of batches, not yet drawn; at most 64 of each source unless None.

    A loader that raises ends its source and is noted in `errors`; what reads from something that can be read only
    once, and batches without `input_ids`, are noted in `not_drawn`.
    """
    drawn = DrawnRows()
    drawn.rows = _draw(sources, None if max_rows is None else min(max_rows, _FEW_ROWS), drawn)
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


def _draw(sources: Iterable[BatchSource], limit: int | None, drawn: DrawnRows) -> Iterator[RowFacts]:
    for each in sources:
        source, dataset, trainer = each.name, each.dataset, each.trainer
        total = count_documents(dataset)
        columns = tuple(getattr(dataset, "column_names", None) or ())
        blocks = tuple(name for name in ("chosen", "rejected", "reference") if f"{name}_ids" in columns)
        read = partial(_rows, trainer=trainer, source=source, blocks=blocks)
        names: dict[str, None] = {}
        found: dict[str, _Source] = {}
        seen, kind = 0, "mapping without entries"
        if each.why_not is not None:
            drawn.not_drawn[source] = each.why_not
        else:
            try:
                for batch in _batches(each.make_loader):
                    first = max((part.count for part in found.values()), default=0)
                    for row in islice(read(batch, first=first), None if limit is None else limit - seen):
                        seen += 1
                        found.setdefault(row.source, _Source()).add(row)
                        yield row
                    kind = kind if isinstance(batch, Mapping) else type(batch).__name__
                    names.update(dict.fromkeys(batch if isinstance(batch, Mapping) else ()))
                    if seen == limit or not seen:
                        break
            except Exception as error:
                drawn.errors[source] = f"{type(error).__name__}: {error}"
            if not seen and source not in drawn.errors:
                held = f"they hold: {', '.join(map(str, names))}" if names else f"a batch is a {kind}"
                drawn.not_drawn[source] = f"its batches hold no input_ids of rows ({held})"
        for name, part in (found or {source: _Source()}).items():
            sample = SampleFacts(name, part.count, total, columns or tuple(names), drawn.not_drawn.get(source))
            begun = frozenset(part.beginnings)
            drawn.samples.append(replace(sample, beginnings=begun, trained_ends=frozenset(part.ends)))
        if trainer is not None and samples_completions(trainer):
            drawn.samples.append(SampleFacts(f"{source}, rollout", 0, None, (), describe_rollouts(trainer)))


def _why_not_drawn(**parts: object) -> str | None:
    """Return which part reads from something whose place cannot be put back; None where all can be."""
    for part, owner in parts.items():
        owners = owner if isinstance(owner, tuple) else (owner,)
        if (held := find_read_once(*owners, seeks=part != "dataset" or hasattr(owner, "__len__"))) is not None:
            return f"its {part} reads from a {held}, which can be read only once"
    return None


def _loaders(trainer: TrainerLike) -> Iterator[BatchSource]:
    parts = ("train_dataset", "eval_dataset", "data_collator")
    own = tuple(value for name, value in vars(trainer).items() if name not in parts)

    def source(name: str, make_loader: Callable[[], Iterable[object]], dataset: object) -> BatchSource:
        why = _why_not_drawn(dataset=dataset, collator=trainer.data_collator, trainer=(type(trainer), *own))
        return BatchSource(name, make_loader, dataset, why, trainer)

    if trainer.train_dataset is not None:
        yield source("train batch", trainer.get_train_dataloader, trainer.train_dataset)
    evaluation = getattr(trainer, "eval_dataset", None)
    if isinstance(evaluation, dict):
        for name, dataset in evaluation.items():
            yield source(f"eval batch ({name})", partial(trainer.get_eval_dataloader, name), dataset)
    elif evaluation is not None:
        yield source("eval batch", trainer.get_eval_dataloader, evaluation)


def _batches(make_loader: Callable[[], Iterable[object]]) -> Iterator[object]:
    """Yield the batches of a loader, and end its workers when the reader stops."""
    batches = iter(make_loader())
    try:
        yield from batches
    finally:
        if hasattr(batches, "close"):
            batches.close()


def _rows(
    batch: object, *, trainer: TrainerLike | None, source: str, first: int, blocks: Sequence[str]
) -> Iterator[RowFacts]:
    """Yield the rows of a batch; of its columns, those that have one value for each token."""
    if trainer is not None and samples_completions(trainer) and (prompts := find_prompts(batch)):
        yield from rows_of_prompts(trainer, find_tokenizer_of(trainer), prompts, source, first)
        return
    if isinstance(batch, Mapping):  # labels of another shape than the ids are those of another task
        shape = _shape(batch.get("input_ids"))
        batch = {name: held for name, held in batch.items() if name != "labels" or _shape(held) == shape}
    yield from (
        row for row in rows_of_batch(batch, source, first, blocks=blocks, documents=True) if len(row.input_ids)
    )


def _shape(held: object) -> object:
    return getattr(held, "shape", None)


@contextlib.contextmanager
def preserve_state(*targets: object) -> Iterator[None]:
    """Put back the state that drawing batches or reading rows changes; most targets of other kinds have none.

    That is the global random states and what `remember_state` names: of a trainer its samplers, datasets and collator
    and the accelerator's record of dataloaders; of a dataloader its parts; of a stream, or a dataset of the user's own
    class, all of it. Training then runs as if nothing had been read.
    """
    owners: list[object] = []
    shallow: list[object] = []
    for target in targets:
        if is_trainer(target):
            accelerator = target.accelerator
            owners += [target.train_dataset, getattr(target, "eval_dataset", None), target.data_collator, target]
            shallow += [target.args, accelerator, accelerator.gradient_state]
        elif is_loader(target):
            owners += parts_of(target).values()
        elif _keeps_state(target):
            owners.append(target)
    if not owners:
        yield
        return
    restore_random_states = remember_random_states()
    restore = remember_state(*owners, shallow=shallow)
    try:
        yield
    finally:
        restore()
        restore_random_states()


def _keeps_state(target: object) -> bool:
    """Return True for a stream, and for rows of the user's own class, which may keep anything between readings."""
    kind = type(target)
    is_rows = hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")
    return is_rows and not is_leaf(target) and (kind.__name__ == "IterableDataset" or is_own_code(kind))
