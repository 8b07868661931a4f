"""Check a tokenizer, a model, a trainer, a dataset, a batch or a saved folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.findings import Change, Check, Plan, Report
from llama_padfix.doctor.observe.batches import preserve_state
from llama_padfix.doctor.observe.target import Observation, observe_target
from llama_padfix.doctor.observe.tokenizer import make_decoder, observe_tokenizer
from llama_padfix.doctor.patch import apply_changes
from llama_padfix.doctor.repair import repair_until_stable
from llama_padfix.doctor.runner import run_checks, select_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


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
    """Return what the catalogue of checks finds in `target`, without changing it.

    Args:
        target: a tokenizer, a (tokenizer, model) pair, a trainer, an encoded dataset, one collated batch, or the
            folder that a run saved. Real batches are drawn from a trainer's dataloaders, and the random states are
            put back.
        model: the model of a tokenizer.
        dataset: rows beside a tokenizer or folder: encoded, raw, or one batch. Without a tokenizer the checks that
            read turns are skipped.
        select: codes, beginnings of codes or names of the checks to run; all by default.
        ignore: codes, beginnings of codes or names of checks to leave out.
        max_rows: how many rows are read, a fixed sample of them (at most 64 of each of a trainer's dataloaders);
            None reads all, in constant memory.
        progress: show a progress bar while rows are read.

    Raises:
        PadfixError: `target` is of another kind, or no check fits an entry of `select` or `ignore`.
    """
    catalogue = select_checks(select, ignore)
    with preserve_state(target):
        observed = observe_target(target, model, dataset, max_rows)
        report = run_checks(
            observed.facts,
            catalogue,
            rows=_show_progress(observed) if progress else observed.rows,
            decode=make_decoder(observed.tokenizer),
            complete=observed.complete,
        )
    return replace(report, apply=_find_fix(observed, catalogue))


def _show_progress(observed: Observation) -> Iterable[Any]:  # rows; tqdm is untyped
    from tqdm.auto import tqdm

    total = observed.facts.samples[0].seen if observed.facts.samples else 0
    rows: Iterable[Any] = tqdm(
        observed.rows, total=total or None, desc="Looking at rows", unit="row", disable=not observed.facts.samples
    )
    return rows


def _find_fix(observed: Observation, catalogue: Sequence[Check]) -> Callable[[Sequence[Change]], Plan] | None:
    """Return what `Report.fix` calls with the changes; None where there is nothing to change."""
    if observed.is_folder:
        return _refuse_folder
    if observed.tokenizer is None:
        return None
    return lambda changes: _fix(changes, observed.tokenizer, observed.model, catalogue)


def _fix(changes: Sequence[Change], tokenizer: Any, model: Any, catalogue: Sequence[Check]) -> Plan:
    """Apply changes, and those of the same safety that these make room for: a new EOS may free a pad token."""
    safeties = {change.safety for change in changes}

    def find(plan: Plan) -> list[Change]:
        report = run_checks(observe_tokenizer(tokenizer, model, with_markers=True), catalogue)
        return [change for each in report.findings for change in each.changes if change.safety in safeties]

    def apply(plan: Plan, more: Sequence[Change]) -> Plan:
        return apply_changes([*plan, *more], tokenizer, model)

    plan = apply_changes(changes, tokenizer, model)
    return repair_until_stable(plan, find, apply, "The tokenizer does not keep them.")[0]


def _refuse_folder(changes: Sequence[Change]) -> Plan:
    raise PadfixError(
        "A saved folder is never changed in place. Write a repaired copy: llama-padfix doctor FOLDER --fix OUT, "
        "or: from llama_padfix import heal_folder; heal_folder(folder, out)"
    )
