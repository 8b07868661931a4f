"""Check a tokenizer, a model, a trainer, a dataset, a batch or a saved folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor.findings import Change, Plan, Report
from llama_padfix.doctor.fixing.live import Look, fix_live
from llama_padfix.doctor.fixing.settings import Owners
from llama_padfix.doctor.observe.target import Observation, observe_target
from llama_padfix.doctor.observe.trainer import is_trainer
from llama_padfix.doctor.runner import run_checks, select_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llama_padfix.core.types import ConfiguredModel
    from llama_padfix.doctor.facts import Facts, RowFacts


def diagnose(
    target: object,
    *,
    model: ConfiguredModel | None = None,
    dataset: object = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    max_rows: int | None = 1000,
    progress: bool = False,
) -> Report:
    """Return what the catalogue of checks finds in `target`, without changing it.

    Batches are drawn from a trainer's own dataloaders. Put back afterwards are, in what the trainer, its samplers,
    datasets and collator reach: the global random states and each generator of Python, NumPy and torch; attributes,
    `__slots__` and closures; lists, dicts, sets, deques, bytearrays, arrays, tensors and `multiprocessing.Value` in
    place; places in open files that can seek; class attributes and globals that your own code binds. The search goes
    20,000 objects and 4 million items far. Nothing is drawn where a part holds something that can be read only once
    (a generator, a pipe, `itertools.count`, a stream over an open file); `Report.samples` says so. Not put back: what
    is written to disk or sent to other processes, attributes of modules, state inside of compiled extensions, and the
    order of a set where hashes collide.

    Args:
        target: a tokenizer, a (tokenizer, model) pair, a trainer, an encoded dataset, one collated batch, or the
            folder that a run saved.
        model: the model of a tokenizer.
        dataset: rows beside a tokenizer or folder: encoded, raw, or one batch; a path, a frame or an Arrow table, as
            for `encode_dataset`. Without a tokenizer the checks that
            read turns are skipped.
        select: codes, beginnings of codes or names of the checks to run; all by default.
        ignore: codes, beginnings of codes or names of checks to leave out.
        max_rows: how many rows are read, a fixed sample of them (at most 64 of each of a trainer's dataloaders);
            None reads all, in constant memory.
        progress: show a progress bar while rows are read.

    Returns:
        The findings with the changes that fix them, the checks that passed, and those that were skipped with the
        reason. `Report.fix` applies the changes to the tokenizer and model.

    Raises:
        PadfixError: `target` is of another kind, or no check fits an entry of `select` or `ignore`.
    """
    catalogue = select_checks(select, ignore)
    with observe_target(target, model, dataset, max_rows) as observed:
        rows = _show_progress(observed) if progress else observed.rows
        report = run_checks(observed.facts, catalogue, rows=rows, decode=observed.decode, complete=observed.complete)

    def look() -> tuple[Facts, Report]:
        again = dataset if isinstance(dataset, str) or hasattr(dataset, "__len__") else None  # a stream is read once
        with observe_target(target, model, again, max_rows) as seen:
            rows, complete = seen.rows, seen.complete
            return seen.facts, run_checks(seen.facts, rows=rows, decode=seen.decode, complete=complete)

    return replace(report, apply=_choose_fix(observed, target, look, [check.code for check in catalogue]))


def _show_progress(observed: Observation) -> Iterable[RowFacts]:
    from tqdm.auto import tqdm

    total = observed.facts.samples[0].seen if observed.facts.samples else 0
    rows: Iterable[RowFacts] = tqdm(
        observed.rows, total=total or None, desc="Looking at rows", unit="row", disable=not observed.facts.samples
    )
    return rows


def _choose_fix(
    observed: Observation, target: object, look: Look, codes: Sequence[str]
) -> Callable[[Sequence[Change]], Plan] | None:
    """Return what `Report.fix` calls with the changes; None where there is nothing to change."""
    if observed.is_folder:
        return _refuse_folder
    if observed.tokenizer is None:
        return None
    owners = Owners(observed.tokenizer, observed.model, target if is_trainer(target) else None)
    return partial(fix_live, owners=owners, look=look, codes=codes)


def _refuse_folder(changes: Sequence[Change]) -> Plan:
    raise PadfixError(
        "A saved folder is never changed in place. Write a repaired copy: llama-padfix doctor FOLDER --fix OUT, "
        "or: from llama_padfix import heal_folder; heal_folder(folder, out)"
    )
