"""Looks at a tokenizer, a model, a trainer, a dataset, a batch or a saved folder, and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_padfix.core.compat import find_tokenizer
from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.facts import Facts, RowFacts, SampleFacts
from llama_padfix.doctor.findings import Change, Check, Plan, Report
from llama_padfix.doctor.observe.data import is_raw, observe_data
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.doctor.observe.folder import load_folder, observe_folder, saved_model
from llama_padfix.doctor.observe.model import observe_model
from llama_padfix.doctor.observe.rows import is_batch, is_encoded, rows_of_batch, rows_of_dataset, sample_of
from llama_padfix.doctor.observe.tokenizer import make_decoder, observe_tokenizer
from llama_padfix.doctor.observe.trainer import observe_trainer, preserve_state, sample_batches
from llama_padfix.doctor.patch import apply_changes
from llama_padfix.doctor.runner import run_checks, select_checks
from llama_padfix.tokens.calls import check_tokenizer

__all__ = ["diagnose"]

_MOST_ROUNDS = 4  # a change may make room for another; more rounds than that is a loop


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
    batch, or the folder that a run saved. `model` and `dataset` (encoded, raw, or one batch) go beside a tokenizer,
    without which the checks that read turns are skipped. A trainer has its own, and real batches are drawn from its
    dataloaders, with the random state put back. At most `max_rows` rows are looked at, a fixed sample of them; None
    reads all, in constant memory. `select` and `ignore` are codes, beginnings of codes or names of checks. Raises
    `PadfixError` for a target of another kind.
    """
    catalogue = select_checks(select, ignore)
    if isinstance(target, (str, Path)):
        tokenizer, folder = load_folder(observe_folder(target))
        saved = saved_model(folder)
        facts = observe_tokenizer(tokenizer, saved, with_markers=True) if tokenizer is not None else Facts()
        if tokenizer is None and saved is not None:
            facts = replace(facts, model=observe_model(saved))
        report = _run(replace(facts, folder=folder), catalogue, tokenizer, saved, dataset, max_rows, progress)
        return replace(report, apply=_refuse_folder)
    if hasattr(target, "get_train_dataloader"):
        return _diagnose_trainer(target, catalogue, max_rows)
    if isinstance(target, tuple) and len(target) == 2 and not isinstance(target[0], Mapping):
        target, model = target
    if is_batch(target):
        return _run(Facts(), catalogue, None, None, target, max_rows, progress)
    if isinstance(target, Mapping):
        target = _rows_of_mapping(target)
    if is_encoded(target):
        return _run(Facts(), catalogue, None, None, target, max_rows, progress)
    _refuse_others(target)
    return _run(
        observe_tokenizer(target, model, with_markers=True), catalogue, target, model, dataset, max_rows, progress
    )


def _rows_of_mapping(target: Mapping[str, Any]) -> Any:
    """Return the rows of what a tokenizer gives for one text or for several; other mappings as they are."""
    ids = target.get("input_ids")
    if not isinstance(ids, (list, tuple)) or not ids:
        return target
    columns = {name: values for name, values in target.items() if isinstance(values, (list, tuple))}
    if not isinstance(ids[0], (list, tuple)):
        return [columns]
    return [{name: values[place] for name, values in columns.items()} for place in range(len(ids))]


def _refuse_others(target: Any) -> None:
    """Raise `PadfixError` for what is neither encoded nor a tokenizer, with the line that leads on."""
    if hasattr(target, "get_input_embeddings"):
        raise PadfixError(
            f"Got a {type(target).__name__} alone. Diagnose it with its tokenizer: diagnose((tokenizer, model))"
        )
    if isinstance(target, Mapping) and not hasattr(target, "get_vocab"):
        parts = ", ".join(map(repr, list(target)[:8]))
        raise PadfixError(
            f"Got a mapping of {parts or 'nothing'}. Pass one split or one batch: diagnose(dataset['train'])"
        )
    if isinstance(target, (list, tuple)) and not target:
        raise PadfixError("The dataset is empty: there is no row to look at.")
    if isinstance(target, (list, tuple)) or any(hasattr(target, name) for name in ("column_names", "__getitem__")):
        raise PadfixError(
            "The dataset is not encoded: its rows have no input_ids. Encode it, or give it with its trainer: "
            "diagnose(tokenizer, dataset=prepare(tokenizer).encode(dataset))"
        )
    check_tokenizer(target)


def _run(
    facts: Facts,
    catalogue: Sequence[Check],
    tokenizer: Any,
    model: Any,
    dataset: Any,
    max_rows: int | None,
    progress: bool,
) -> Report:
    rows: Iterable[RowFacts] = ()
    if is_batch(dataset):
        drawn = list(rows_of_batch(dataset, "batch"))
        rows = drawn
        facts = replace(facts, samples=(SampleFacts("batch", len(drawn), len(drawn), tuple(dataset)),))
    elif dataset is not None and is_raw(dataset):
        _, places = sample_of(dataset, "dataset", max_rows)
        data = observe_data(dataset, tokenizer, "dataset", places=places, max_rows=max_rows)
        facts = replace(facts, data=data)
    elif dataset is not None:
        sample, places = sample_of(dataset, "dataset", max_rows)
        rows = rows_of_dataset(dataset, "dataset", places, max_rows)
        facts = replace(facts, samples=(sample,))
        if progress:
            from tqdm.auto import tqdm

            rows = tqdm(rows, total=sample.seen or None, desc="Looking at rows", unit="row")
    facts = replace(facts, environment=observe_environment())
    report = run_checks(facts, catalogue, rows=rows, decode=make_decoder(tokenizer))
    return replace(report, apply=_applier(tokenizer, model, catalogue))


def _diagnose_trainer(trainer: Any, catalogue: Sequence[Check], max_rows: int | None) -> Report:
    tokenizer = find_tokenizer(trainer)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    if not hasattr(tokenizer, "get_vocab"):
        tokenizer = None
    with preserve_state(trainer):
        facts = observe_tokenizer(tokenizer, trainer.model, with_markers=True) if tokenizer is not None else Facts()
        if tokenizer is None:
            facts = replace(facts, model=observe_model(trainer.model))
        observed = observe_trainer(trainer)
        facts = replace(facts, trainer=observed, environment=observe_environment())
        # The rows first: what became of drawing them is a fact that the other checks look at.
        draw = sample_batches(trainer, max_rows)
        of_rows = [check for check in catalogue if check.inspect is not None]
        of_facts = [check for check in catalogue if check.inspect is None]
        waiting = replace(facts, samples=(SampleFacts("train batch", 0, None),))  # "rows" are there to be drawn
        rows_report = run_checks(waiting, of_rows, rows=draw.rows, decode=make_decoder(tokenizer))
        observed = replace(observed, loader_errors=draw.errors, not_drawn=draw.not_drawn)
        facts = replace(facts, trainer=observed, samples=tuple(draw.samples))
        report = _merge_reports(catalogue, run_checks(facts, of_facts), rows_report)
    if not any(sample.seen for sample in draw.samples):
        reasons = {**draw.not_drawn, **{source: f"it raised {error}" for source, error in draw.errors.items()}}
        why = "; ".join(f"no rows of the {source}: {reason}" for source, reason in reasons.items())
        unseen = dict.fromkeys((check.code for check in of_rows), why or "no rows to look at")
        passed = tuple(code for code in report.passed if code not in unseen)
        report = replace(report, passed=passed, skipped={**report.skipped, **unseen})
    return replace(report, samples=tuple(draw.samples), apply=_applier(tokenizer, trainer.model, catalogue))


def _merge_reports(catalogue: Sequence[Check], *reports: Report) -> Report:
    """Return one report of several parts of the catalogue, in its order."""
    order = {check.code: place for place, check in enumerate(catalogue)}
    findings = sorted((f for report in reports for f in report.findings), key=lambda finding: order[finding.code])
    passed = sorted((code for report in reports for code in report.passed), key=lambda code: order[code])
    skipped = {code: reason for report in reports for code, reason in report.skipped.items()}
    return replace(reports[0], findings=tuple(findings), passed=tuple(passed), skipped=skipped)


def _applier(tokenizer: Any, model: Any, catalogue: Sequence[Check]) -> Callable[[Sequence[Change]], Plan] | None:
    return None if tokenizer is None else lambda changes: _apply(changes, tokenizer, model, catalogue)


def _apply(changes: Sequence[Change], tokenizer: Any, model: Any, catalogue: Sequence[Check]) -> Plan:
    """Apply changes, and those of the same safety that these make room for: a new EOS may free a pad token."""
    plan = apply_changes(changes, tokenizer, model)
    asked = {change.safety for change in changes}
    targets = {change.target for change in plan}
    for _ in range(_MOST_ROUNDS):
        report = run_checks(observe_tokenizer(tokenizer, model, with_markers=True), catalogue)
        more = [c for finding in report.findings for c in finding.changes if c.safety in asked]
        if not more:
            return plan
        plan = apply_changes([*plan, *more], tokenizer, model)
    raise PadfixError(f"The checks keep asking for changes of {', '.join(sorted(targets))}: the tokenizer drops them.")


def _refuse_folder(changes: Sequence[Change]) -> Plan:
    raise PadfixError(
        "A saved folder is never changed in place. Write a healed copy: llama-padfix doctor FOLDER --fix OUT, "
        "or llama_padfix.heal_folder(folder, out)"
    )
