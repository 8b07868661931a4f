"""A tokenizer, a model, an optimizer and rows in any combination, as an observation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from llama_padfix.doctor.facts import Facts, RowFacts, SampleFacts
from llama_padfix.doctor.observe.batches import draw_sources, loader_source
from llama_padfix.doctor.observe.loader import find_owners, is_loader
from llama_padfix.doctor.observe.rows import holds_rows, observe_dataset, refuse_unencoded
from llama_padfix.doctor.observe.targets.observation import Beside, Observation
from llama_padfix.doctor.observe.targets.tokenizer_search import choose_tokenizer
from llama_padfix.doctor.observe.tokenizer import observe_pair
from llama_padfix.encoding.sources import is_column, is_conversation, is_encoded, is_one_row, rows_of_mapping

if TYPE_CHECKING:
    from llama_padfix.core.types import TokenizerLike

_Complete: TypeAlias = Callable[[Facts], Facts]
_DATASETS = ("Dataset", "IterableDataset")  # of torch and of datasets


def observe_given(tokenizer: TokenizerLike | None, beside: Beside, max_rows: int | None) -> Observation:
    """Observe what was given, each part where there is one.

    Args:
        tokenizer: the target where that is a tokenizer.
        beside: everything else.
        max_rows: the most rows to read of each split; None for all.

    Raises:
        PadfixError: the rows are not encoded and there is nothing to encode them with, or an optimizer has no model.
    """
    model, parts = beside.model, name_parts(beside.dataset)
    given = tokenizer if tokenizer is not None else beside.tokenizer
    roots = (root for part in parts.values() for root in find_owners(part).items())
    known = choose_tokenizer(given, ("tokenizer=", beside.tokenizer), *roots, ("model", model))
    if known.tokenizer is None and model is None:
        for part in parts.values():
            if not _is_encoded(part):
                refuse_unencoded(part)
    facts = known.add_to(observe_pair(known.tokenizer, model, beside.optimizer))
    facts, rows, complete = observe_parts(facts, parts, known.tokenizer, max_rows, beside.processor)
    loaders = {name.replace(" batch", ""): part for name, part in parts.items() if is_loader(part)}
    return Observation(facts, rows, complete, known.tokenizer, model, collators=loaders).with_held_ids()


def observe_parts(
    facts: Facts,
    parts: Mapping[str, object],
    tokenizer: TokenizerLike | None,
    max_rows: int | None,
    processor: Any = None,  # as in `Beside`
) -> tuple[Facts, Iterable[RowFacts], _Complete | None]:
    """Return the facts with those of rows and dataloaders by name, the rows to read, and what completes the facts."""
    rows: list[Iterable[RowFacts]] = []
    sources = []
    for name, part in parts.items():
        if is_loader(part):
            sources.append(loader_source(part, name))
        else:
            facts, read = observe_dataset(facts, part, tokenizer, max_rows, name, processor)
            rows.append(read)
    if not sources:
        return facts, chain(*rows), None
    drawn, samples = draw_sources(sources, max_rows), facts.samples

    def complete(facts: Facts) -> Facts:
        return replace(facts, samples=(*samples, *drawn.samples), loader_errors=drawn.errors)

    # With these sources, although nothing is drawn yet, the checks of rows are not skipped.
    waiting = tuple(SampleFacts(source.name, 0, None) for source in sources)
    return replace(facts, samples=(*samples, *waiting)), chain(*rows, drawn.rows), complete


def name_parts(dataset: object) -> dict[str, object]:
    """Return rows, or each split of them, by what they are called in findings; nothing for None."""
    if isinstance(dataset, Mapping) and is_column(ids := dataset.get("input_ids")) and len(ids):
        dataset = rows_of_mapping(dataset)  # a row, or what a tokenizer or a dataset returns for several
    splits = splits_of(dataset)
    named = {"": dataset} if splits is None else {f" ({name})": part for name, part in splits.items()}
    kinds = {name: "dataloader batch" if is_loader(part) else "dataset" for name, part in named.items()}
    return {kinds[name] + name: part for name, part in named.items() if part is not None}


def splits_of(value: object) -> Mapping[str, object] | None:
    """Return a mapping of splits to rows or dataloaders, such as a `datasets.DatasetDict`; None for anything else."""
    if not isinstance(value, Mapping) or not value or "input_ids" in value or is_one_row(value):
        return None
    return value if all(isinstance(name, str) and _is_split(part) for name, part in value.items()) else None


def _is_split(part: object) -> bool:
    """Return True for a dataset or loader, and for a list of rows that are mappings and no messages."""
    if isinstance(part, (list, tuple)):
        return bool(part) and isinstance(part[0], Mapping) and not is_conversation(part)
    kinds = {kind.__name__ for kind in type(part).__mro__}
    return is_loader(part) or not kinds.isdisjoint(_DATASETS)


def _is_encoded(part: Any) -> bool:  # whatever holds rows
    first = part[0] if isinstance(part, (list, tuple)) and part else part
    return is_loader(part) or holds_rows(first) or is_encoded(part)
