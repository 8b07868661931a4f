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
from llama_padfix.doctor.observe.target import observe_target
from llama_padfix.doctor.observe.targets.observation import Beside, Observation
from llama_padfix.doctor.runner import run_checks, select_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llama_padfix.core.types import ConfiguredModel, TokenizerLike
    from llama_padfix.doctor.facts import Facts, RowFacts


def diagnose(
    target: object,
    *,
    tokenizer: TokenizerLike | None = None,
    model: ConfiguredModel | None = None,
    dataset: object = None,
    optimizer: object = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    max_rows: int | None = 1000,
    progress: bool = False,
) -> Report:
    """Return what the catalog of checks finds in `target`, without changing it.

    Batches are drawn from a trainer's own dataloaders, or from the one that is given. Put back afterwards are, in what
    the trainer or loader, its samplers, datasets and collator reach: the global random states and each generator of
    Python, NumPy and torch; attributes, `__slots__` and closures; lists, dicts, sets, deques, bytearrays, arrays,
    tensors and `multiprocessing.Value` in place; places in open files that can seek; class attributes and globals that
    your own code binds. The search goes 20,000 objects and 4 million items far. Nothing is drawn where a part holds
    something that can be read only once (a generator, a pipe, `itertools.count`, a stream over an open file);
    `Report.samples` says so. Not put back: what is written to disk or sent to other processes, attributes of modules,
    state inside of compiled extensions, and the order of a set where hashes collide.

    Args:
        target: a tokenizer or processor, a (tokenizer, model) pair, a model, a trainer, a `DataLoader`, an encoded
            dataset or a mapping of splits, a collated batch or a list of them, a saved folder, or a .gguf file.
        tokenizer: the tokenizer of a target that has none. Without it a trainer's or loader's parts are searched.
        model: the model of a tokenizer, or the one that a loop trains.
        dataset: rows beside a tokenizer, model or folder: encoded, raw, a mapping of splits, a batch, a `DataLoader`;
            a path, a frame or an Arrow table, as for `encode_dataset`.
        optimizer: the optimizer that a loop steps, beside its model.
        select: codes, beginnings of codes or names of the checks to run; all by default.
        ignore: codes, beginnings of codes or names of checks to leave out.
        max_rows: how many rows of each split are read, a fixed sample of them (at most 64 of each dataloader); None
            reads all, in constant memory.
        progress: show a progress bar while rows are read.

    Returns:
        The findings with the changes that fix them, the checks that passed, those that were skipped with the reason,
        and notes: where the tokenizer was found, what was not looked at. `Report.fix` applies the changes.

    Raises:
        PadfixError: `target` is of another kind, something beside it has no meaning there, or no check fits an entry
            of `select` or `ignore`.
    """
    selected = select_checks(select, ignore)
    beside = Beside(tokenizer, model, dataset, optimizer)
    with observe_target(target, beside, max_rows) as observed:
        rows = _show_progress(observed) if progress else observed.rows
        catalog, left_out = observed.leave_out(selected)
        report = run_checks(observed.facts, catalog, rows=rows, decode=observed.decode, complete=observed.complete)

    def look() -> tuple[Facts, Report]:
        again = dataset if isinstance(dataset, str) or hasattr(dataset, "__len__") else None  # a stream is read once
        with observe_target(target, replace(beside, dataset=again), max_rows) as seen:
            every, rows, complete = seen.leave_out(select_checks())[0], seen.rows, seen.complete
            return seen.facts, run_checks(seen.facts, every, rows=rows, decode=seen.decode, complete=complete)

    fix = _choose_fix(observed, look, [check.code for check in catalog])
    return replace(report, skipped={**report.skipped, **left_out}, apply=fix)


def _show_progress(observed: Observation) -> Iterable[RowFacts]:
    from tqdm.auto import tqdm

    total = sum(sample.seen for sample in observed.facts.samples)
    rows: Iterable[RowFacts] = tqdm(
        observed.rows, total=total or None, desc="Looking at rows", unit="row", disable=not observed.facts.samples
    )
    return rows


def _choose_fix(observed: Observation, look: Look, codes: Sequence[str]) -> Callable[[Sequence[Change]], Plan] | None:
    """Return what `Report.fix` calls with the changes; None where there is nothing to change."""
    if observed.saved_as == "folder":
        return _refuse_folder
    if observed.saved_as is not None:
        return partial(_refuse_saved, observed.saved_as)
    if observed.tokenizer is None:
        return None
    owners = Owners(observed.tokenizer, observed.model, observed.trainer, observed.collators)
    return partial(fix_live, owners=owners, look=look, codes=codes)


def _refuse_folder(changes: Sequence[Change]) -> Plan:
    raise PadfixError(
        "A saved folder is never changed in place. Write a repaired copy: llama-padfix doctor FOLDER --fix OUT, "
        "or: from llama_padfix import heal_folder; heal_folder(folder, out)"
    )


def _refuse_saved(kind: str, changes: Sequence[Change]) -> Plan:
    raise PadfixError(
        f"A {kind} is never changed. Repair the folder that it was made of, and convert that again: "
        "llama-padfix doctor FOLDER --fix OUT"
    )
