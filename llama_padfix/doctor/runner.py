"""Runs the catalogue of checks over facts and rows; a check that is skipped or that raises is listed, never hidden."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import ModuleType

from llama_padfix.core.errors import PadfixError
from llama_padfix.doctor import checks
from llama_padfix.doctor.facts import Facts, RowFacts
from llama_padfix.doctor.findings import MAX_EVIDENCE, Check, Evidence, Finding, Hit, Report

__all__ = ["load_checks", "run_checks", "select_checks"]

_CONTEXT = 6  # positions shown on either side of a fault
_LONGEST = 40  # positions shown of the fault itself


@lru_cache
def load_checks(package: ModuleType = checks) -> tuple[Check, ...]:
    """Return every check of the catalogue, in the order of their codes: a new check is one new file.

    Raises `PadfixError` for a file without a `CHECK`, and for a code that two files claim.
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
    """Return the checks whose code or name begins with an entry of `select`, without those of `ignore`.

    Raises `PadfixError` for an entry that fits no check, so that a typing error does not pass for a clean report.
    """
    catalogue = load_checks(package)

    def fits(check: Check, entries: Sequence[str]) -> bool:
        return any(check.code.startswith(entry.upper()) or check.name == entry for entry in entries)

    for entry in [*(select or ()), *(ignore or ())]:
        if not any(fits(check, [entry]) for check in catalogue):
            codes = ", ".join(check.code for check in catalogue)
            raise PadfixError(f"No check is called {entry!r}. The codes are: {codes}.")
    return tuple(
        check for check in catalogue if (select is None or fits(check, select)) and not fits(check, ignore or ())
    )


@dataclass
class _Tally:
    """What a check of rows has seen in one source so far."""

    rows: int = 0
    count: int = 0
    evidence: list[Evidence] = field(default_factory=list)


def run_checks(
    facts: Facts,
    catalogue: Sequence[Check] | None = None,
    *,
    rows: Iterable[RowFacts] = (),
    decode: Callable[[Sequence[int]], str] = lambda ids: " ".join(map(str, ids)),
) -> Report:
    """Return what every check of the catalogue says of the facts and of each row.

    The rows are read once, in constant memory; `decode` makes text of the ids around a fault. `facts.samples`
    must name the sources of the rows.
    """
    skipped: dict[str, str] = {}
    asked: list[Check] = []
    for check in load_checks() if catalogue is None else catalogue:
        needs = dict.fromkeys("rows" if need == "labels" else need for need in check.needs)
        missing = [need for need in needs if need not in facts.present]
        if missing:
            skipped[check.code] = f"no {' and no '.join(missing)} to look at"
        else:
            asked.append(check)
    found: dict[str, list[Finding]] = {}
    for check in asked:
        if check.find is not None:
            try:
                found[check.code] = list(check.find(facts))
            except Exception as error:  # one broken check must not hide what the others see
                skipped[check.code] = _broken(error)
    seen = _inspect_rows(facts, [check for check in asked if check.inspect is not None], rows, decode, found, skipped)
    findings = [finding for check in asked for finding in found.get(check.code, ())]
    passed = [check.code for check in asked if check.code not in skipped and not found.get(check.code)]
    # A stream does not say beforehand how many rows it has: what was read counts.
    samples = tuple(replace(sample, seen=seen.get(sample.source, sample.seen)) for sample in facts.samples)
    return Report(tuple(findings), tuple(passed), skipped, samples)


def _inspect_rows(
    facts: Facts,
    asked: Sequence[Check],
    rows: Iterable[RowFacts],
    decode: Callable[[Sequence[int]], str],
    found: dict[str, list[Finding]],
    skipped: dict[str, str],
) -> dict[str, int]:
    """Let the checks read every row once, and return how many rows of each source there were."""
    tallies: dict[tuple[str, str], _Tally] = {}
    seen: dict[str, int] = {}
    labelled = False
    for row in rows:
        seen[row.source] = seen.get(row.source, 0) + 1
        labelled = labelled or row.labels is not None
        for check in asked:
            if check.code in skipped or ("labels" in check.needs and row.labels is None):
                continue
            try:
                hits = list(check.inspect(row, facts)) if check.inspect is not None else []
            except Exception as error:
                skipped[check.code] = _broken(error)
                continue
            if hits:
                tally = tallies.setdefault((check.code, row.source), _Tally())
                tally.rows += 1
                tally.count += sum(hit.count for hit in hits)
                if len(tally.evidence) < MAX_EVIDENCE:
                    tally.evidence.append(_show(row, hits[0], decode))
    for check in asked:
        if "labels" in check.needs and not labelled:
            skipped.setdefault(check.code, "no labels to look at")
        for (code, where), tally in tallies.items():
            if code != check.code or code in skipped:
                continue
            message = check.message.format(rows=tally.rows, seen=seen[where], count=tally.count, where=where)
            found.setdefault(code, []).append(
                Finding(
                    code=code,
                    name=check.name,
                    severity=check.severity,
                    message=message,
                    where=where,
                    rows=tally.rows,
                    seen=seen[where],
                    count=tally.count,
                    evidence=tuple(tally.evidence),
                )
            )
    return seen


def _broken(error: Exception) -> str:
    return f"the check itself raised {type(error).__name__}: {error}"


def _show(row: RowFacts, hit: Hit, decode: Callable[[Sequence[int]], str]) -> Evidence:
    first = max(hit.start - _CONTEXT, 0)
    last = min(hit.end, hit.start + _LONGEST) + _CONTEXT
    text = decode([int(token_id) for token_id in row.input_ids[first:last]])
    return Evidence(row.number, hit.start, hit.end, text, hit.remark)
