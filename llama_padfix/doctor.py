"""Looks at a tokenizer, a model, a trainer, a dataset, a batch or a saved folder, and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from llama_padfix.examine import examine, select_checks
from llama_padfix.labels import find_markers
from llama_padfix.observe import check_tokenizer, observe, observe_model
from llama_padfix.observe_environment import observe_environment
from llama_padfix.observe_folder import load_folder, observe_folder
from llama_padfix.observe_rows import is_batch, is_encoded, rows_of_batch, rows_of_dataset, sample_of
from llama_padfix.observe_trainer import draw_rows, observe_trainer, undisturbed
from llama_padfix.records import Change, Facts, PadfixError, Plan, Report, RowFacts, SampleFacts, TurnMarkers
from llama_padfix.tokenizer import apply_changes

__all__ = ["diagnose"]


def diagnose(
    target: Any,
    *,
    model: Any = None,
    dataset: Any = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    max_rows: int | None = 1000,
    progress: bool = False,
) -> Report:
    """Return what the catalogue of checks says of `target`, without changing it.

    `target` is a tokenizer, a (tokenizer, model) pair, a trainer, a dataset that somebody encoded, one collated
    batch, or the folder that a run saved. `model` and `dataset` (encoded) go beside a tokenizer; a trainer brings
    its own, and real batches are drawn from its dataloaders, with the random state put back. At most `max_rows`
    rows are looked at, a fixed sample of them; None reads all, in constant memory. `select` and `ignore` are
    codes, beginnings of codes or names of checks. Raises `PadfixError` for a target of another kind.
    """
    catalogue = select_checks(select, ignore)
    if isinstance(target, (str, Path)):
        folder = observe_folder(target)
        tokenizer, error = load_folder(folder)
        facts = _observe_tokenizer(tokenizer, None) if tokenizer is not None else Facts()
        facts = replace(facts, folder=replace(folder, load_error=error) if error else folder)
        return _run(facts, catalogue, tokenizer, None, dataset, max_rows, progress)
    if hasattr(target, "get_train_dataloader"):
        return _diagnose_trainer(target, catalogue, max_rows)
    if isinstance(target, tuple) and len(target) == 2:
        target, model = target
    if is_batch(target):
        rows = list(rows_of_batch(target, "batch"))
        sample = SampleFacts("batch", len(rows), len(rows), tuple(target))
        return examine(Facts(samples=(sample,), environment=observe_environment()), catalogue, rows=rows)
    if is_encoded(target):
        return _run(Facts(), catalogue, None, None, target, max_rows, progress)
    if isinstance(target, (list, tuple)) or hasattr(target, "column_names"):
        raise PadfixError(
            "The dataset is not encoded: its rows have no input_ids. Encode it, or give it with its trainer: "
            "diagnose(tokenizer, dataset=prepare(tokenizer).encode(dataset))"
        )
    check_tokenizer(target)
    return _run(_observe_tokenizer(target, model), catalogue, target, model, dataset, max_rows, progress)


def _run(
    facts: Facts,
    catalogue: Any,
    tokenizer: Any,
    model: Any,
    dataset: Any,
    max_rows: int | None,
    progress: bool,
) -> Report:
    rows: Iterable[RowFacts] = ()
    if dataset is not None:
        sample, places = sample_of(dataset, "dataset", max_rows)
        rows = rows_of_dataset(dataset, "dataset", places, max_rows)
        facts = replace(facts, samples=(sample,))
        if progress:
            from tqdm.auto import tqdm

            rows = tqdm(rows, total=sample.seen or None, desc="Looking at rows", unit="row")
    facts = replace(facts, environment=observe_environment())
    report = examine(facts, catalogue, rows=rows, decode=_decoder(tokenizer))
    return replace(report, apply=_applier(tokenizer, model))


def _diagnose_trainer(trainer: Any, catalogue: Any, max_rows: int | None) -> Report:
    tokenizer = getattr(trainer, "processing_class", None) or getattr(trainer, "tokenizer", None)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    with undisturbed(trainer):
        facts = _observe_tokenizer(tokenizer, trainer.model) if tokenizer is not None else Facts()
        if tokenizer is None:
            facts = replace(facts, model=observe_model(trainer.model))
        samples, batches = draw_rows(trainer, max_rows)
        facts = replace(
            facts, trainer=observe_trainer(trainer), environment=observe_environment(), samples=tuple(samples)
        )
        report = examine(facts, catalogue, rows=chain.from_iterable(batches), decode=_decoder(tokenizer))
    return replace(report, apply=_applier(tokenizer, trainer.model))


def _observe_tokenizer(tokenizer: Any, model: Any) -> Facts:
    return replace(observe(tokenizer, model), markers=_markers_or_none(tokenizer))


def _markers_or_none(tokenizer: Any) -> TurnMarkers | None:
    try:
        return find_markers(tokenizer)
    except PadfixError:
        return None  # no template, or turns without ids of their own: the checks that need them are skipped


def _decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    if tokenizer is None:
        return lambda ids: " ".join(map(str, ids))
    return lambda ids: str(tokenizer.decode([i for i in ids if i >= 0]))


def _applier(tokenizer: Any, model: Any) -> Callable[[Sequence[Change]], Plan] | None:
    return None if tokenizer is None else lambda changes: apply_changes(changes, tokenizer, model)
