"""Run the catalog of checks over rows and facts; a check that is skipped or that raises is listed."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from types import ModuleType

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor import checks
from llama_padfix.doctor.check_helpers import mark_padding, real_part, undo_shift
from llama_padfix.doctor.facts import Facts, RowFacts
from llama_padfix.doctor.findings import MAX_EVIDENCE, Check, Evidence, Finding, Hit, Report
from llama_padfix.doctor.report_formats import LEVELS, NO_LABELS
from llama_padfix.doctor.row_facts import SourceTotals

_CONTEXT = 6  # positions shown on either side of a fault
_LONGEST = 40  # positions shown of the fault itself
# Of several parts that a check misses, its reason names the first of these: few reasons are read, many are not.
_FIRST_REASONS = ("folder", "adapter", "tokenizer", "trainer", "model", "rows", "data", "template")


@lru_cache
def load_checks(package: ModuleType = checks) -> tuple[Check, ...]:
    """Return every check of the catalog, in the order of their codes: a new check is one new file.

    Args:
        package: the package whose files each hold one `CHECK`.

    Raises:
        PadfixError: a file has no `CHECK`, or two files have the same code.
    """
    found: dict[str, Check] = {}
    for module in pkgutil.iter_modules(package.__path__):
        check = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "CHECK", None)
        if not isinstance(check, Check):
            raise PadfixError(
                f"checks/{module.name}.py holds no CHECK. Each file there must define one `CHECK = Check(...)`."
            )
        if check.code in found:
            raise PadfixError(f"checks/{module.name}.py claims {check.code}, which is taken. Give it a free code.")
        found[check.code] = check
    return tuple(found[code] for code in sorted(found))


def select_checks(
    select: Sequence[str] | None = None, ignore: Sequence[str] | None = None, package: ModuleType = checks
) -> tuple[Check, ...]:
    """Return the checks that fit an entry of `select`, without those that fit one of `ignore`.

    Args:
        select: codes, beginnings of codes, or names; None for all checks.
        ignore: the same, of checks to leave out.
        package: the package that holds the checks.

    Raises:
        PadfixError: an entry fits no check, so that a misspelled code does not pass for a clean report.
    """
    catalog = load_checks(package)

    def fits(check: Check, entries: Sequence[str]) -> bool:
        return any(check.code.startswith(entry.upper()) or check.name == entry for entry in entries)

    for entry in [*(select or ()), *(ignore or ())]:
        if not any(fits(check, [entry]) for check in catalog):
            codes = ", ".join(check.code for check in catalog)
            raise PadfixError(f"No check is called {entry!r}. The codes are: {codes}.")
    return tuple(
        check for check in catalog if (select is None or fits(check, select)) and not fits(check, ignore or ())
    )


def run_checks(
    facts: Facts,
    catalog: Sequence[Check] | None = None,
    *,
    rows: Iterable[RowFacts] = (),
    decode: Callable[[Sequence[int]], str] = lambda ids: " ".join(map(str, ids)),
    complete: Callable[[Facts], Facts] | None = None,
) -> Report:
    """Return what every check finds in the rows and then in the facts.

    Args:
        facts: what was observed; `facts.samples` must name the sources of the rows.
        catalog: the checks to run, all by default.
        rows: encoded rows, read once in constant memory.
        decode: makes text of the ids around a fault.
        complete: adds to the facts what is known only after the rows were read, before checks of facts run.
    """
    selected = load_checks() if catalog is None else catalog
    of_rows = [check for check in selected if check.inspect is not None]
    skipped = _skip_without_needs(facts, selected if complete is None else of_rows)
    hits = _inspect_rows(facts, [check for check in of_rows if check.code not in skipped], rows, decode, skipped)
    if complete is not None:
        facts = complete(facts)
        skipped |= _skip_without_needs(facts, [check for check in selected if check.inspect is None])
    found: dict[str, list[Finding]] = {}
    for check in selected:
        if check.code not in skipped:
            try:
                found[check.code] = [*_find_in_facts(check, facts), *hits.findings_of(check)]
            except Exception as error:  # one broken check must not hide what the others find
                skipped[check.code] = _describe_error(error)
    unseen = _why_no_rows(facts)
    skipped |= {check.code: unseen for check in of_rows if unseen is not None}
    findings = [finding for check in selected for finding in found.get(check.code, ())]
    passed = [check.code for check in selected if check.code not in skipped and not found.get(check.code)]
    # A stream does not know beforehand how many rows it has: what was read counts.
    samples = tuple(replace(sample, seen=hits.seen(sample.source, sample.seen)) for sample in facts.samples)
    findings.sort(key=lambda finding: (LEVELS.index(finding.severity), -finding.rows))
    return Report(tuple(findings), tuple(passed), skipped, samples, _name_parts(facts), facts.notes)


def _name_parts(facts: Facts) -> tuple[str, ...]:
    """Return what was looked at besides encoded rows."""
    names = {"template": "chat template", "data": "raw rows", "environment": "installed versions"}
    parts = ("tokenizer", "template", "model", "trainer", "folder", "data", "environment")
    return tuple(names.get(part, part) for part in parts if part in facts.present)


def _find_in_facts(check: Check, facts: Facts) -> Iterator[Finding]:
    """Yield what a check finds in the facts; one of rows that are not encoded looks at each split of them."""
    if check.find is not None:
        yield from check.find(facts)
        for data in facts.more_data if "data" in check.needs else ():
            yield from check.find(replace(facts, data=data))


def _skip_without_needs(facts: Facts, catalog: Sequence[Check]) -> dict[str, str]:
    """Return the checks whose facts are missing, with the reason."""
    present = facts.present | {"labels"} if "rows" in facts.present else facts.present
    missing = {
        check.code: ["rows" if need == "labels" else need for need in check.needs if need not in present]
        for check in catalog
    }
    return {code: f"no {_name_reason(needs)} to look at" for code, needs in missing.items() if needs}


def _name_reason(needs: Sequence[str]) -> str:
    """Return the one missing part for which a check is skipped: that without which the others cannot be there."""
    named = ["trainer" if need in ("training", "batches") else need for need in needs]
    first = next((part for part in _FIRST_REASONS if part in named), named[0])
    return "raw rows" if first == "data" else first


def _why_no_rows(facts: Facts) -> str | None:
    """Return why dataloaders gave no row at all; None where they did, or where there is none."""
    errors = facts.loader_errors if facts.trainer is None else facts.trainer.loader_errors
    if errors is None or any(sample.seen for sample in facts.samples):
        return None
    not_drawn = {sample.source: sample.not_drawn for sample in facts.samples if sample.not_drawn is not None}
    reasons = {
        **(not_drawn if facts.trainer is None else facts.trainer.not_drawn),
        **{source: f"it raised {error}" for source, error in errors.items()},
    }
    return (
        "; ".join(f"no rows of the {source}: {reason}" for source, reason in reasons.items()) or "no rows to look at"
    )


@dataclass
class _Tally:
    """What a check of rows found in one source so far."""

    rows: int = 0
    count: int = 0
    evidence: list[Evidence] = field(default_factory=list)


@dataclass
class _Hits:
    """What the checks of rows found, by check and source, and the rows of each source."""

    tallies: dict[tuple[str, str], _Tally] = field(default_factory=dict)
    totals: dict[str, SourceTotals] = field(default_factory=dict)

    def seen(self, source: str, otherwise: int) -> int:
        """Return how many rows of a source were read, `otherwise` where none were."""
        return self.totals[source].seen if source in self.totals else otherwise

    def findings_of(self, check: Check) -> Iterator[Finding]:
        """Yield one finding of a check for each source, as far as its `judge` agrees."""
        for (code, where), tally in self.tallies.items():
            if code == check.code:
                rows, seen, count = tally.rows, self.totals[where].seen, tally.count
                message = check.message.format(rows=rows, seen=seen, count=count, where=where)
                found: Finding | None = replace(
                    check.found(message),
                    where=where,
                    rows=rows,
                    seen=seen,
                    count=count,
                    evidence=tuple(tally.evidence),
                )
                if check.judge is not None and found is not None:
                    found = check.judge(found, self.totals[where])
                if found is not None:
                    yield found


def _inspect_rows(
    facts: Facts,
    checks_of_rows: Sequence[Check],
    rows: Iterable[RowFacts],
    decode: Callable[[Sequence[int]], str],
    skipped: dict[str, str],
) -> _Hits:
    """Read every row once with each check; a check that raises is added to `skipped`."""
    found = _Hits()
    labeled = False
    for row in rows:
        row = undo_shift(mark_padding(row, facts))
        totals = found.totals.get(row.source, SourceTotals())
        found.totals[row.source] = totals.with_row(int(real_part(row).sum()))
        labeled = labeled or row.labels is not None
        for check in checks_of_rows:
            if check.code in skipped or ("labels" in check.needs and row.labels is None):
                continue
            try:
                hits = list(check.inspect(row, facts)) if check.inspect is not None else []
            except Exception as error:
                skipped[check.code] = _describe_error(error)
                continue
            if hits:
                tally = found.tallies.setdefault((check.code, row.source), _Tally())
                tally.rows += 1
                tally.count += sum(hit.count for hit in hits)
                if len(tally.evidence) < MAX_EVIDENCE:
                    tally.evidence.append(_show(row, hits[0], decode))
    for check in checks_of_rows:
        if "labels" in check.needs and not labeled:
            skipped.setdefault(check.code, NO_LABELS)
    return found


def _describe_error(error: Exception) -> str:
    return f"the check itself raised {type(error).__name__}: {error}"


def _show(row: RowFacts, hit: Hit, decode: Callable[[Sequence[int]], str]) -> Evidence:
    first = max(hit.start - _CONTEXT, 0)
    last = min(hit.end, hit.start + _LONGEST) + _CONTEXT
    ids = [int(token_id) for token_id in row.input_ids[first:last]]
    trained = [] if row.labels is None else row.trained[first:last].tolist()
    runs = [(is_trained, list(group)) for is_trained, group in groupby(range(len(trained)), trained.__getitem__)]
    drawn = tuple((decode([ids[at] for at in places]), bool(is_trained)) for is_trained, places in runs)
    before = row.before if row.source.startswith("dataset") else 0  # the row there is the pack
    return Evidence(row.number, before + hit.start, before + hit.end, decode(ids), hit.remark, drawn)
