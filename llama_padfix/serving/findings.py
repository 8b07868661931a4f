"""Differences as findings of the doctor's kind: one for each cause, with the rows that show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_padfix.doctor.findings import Check, Evidence, Finding
from llama_padfix.doctor.report_formats import LEVELS
from llama_padfix.doctor.runner import load_checks
from llama_padfix.serving import faults
from llama_padfix.serving.causes import CAUSES
from llama_padfix.serving.comparison import SHOWN, Comparison, Difference
from llama_padfix.serving.engines.files import generation_eos
from llama_padfix.serving.stops import find_inside, find_missing

if TYPE_CHECKING:
    from llama_padfix.serving.engines.engine import Engine
    from llama_padfix.serving.folder import ServedFolder
    from llama_padfix.serving.trained import TrainedRows


def find_faults(
    folder: ServedFolder, trained: TrainedRows, engines: Sequence[Engine], comparisons: Sequence[Comparison]
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Return the findings, errors first, and the codes of which nothing was found."""
    checks = {check.code: check for check in load_checks(faults)}
    found = [
        *_find_templates(checks["SRV002"], engines),
        *_find_stops(checks, folder, trained, engines),
        *_find_causes(checks, comparisons, trained.read),
    ]
    found.sort(key=lambda finding: (LEVELS.index(finding.severity), finding.code, -finding.count))
    codes = {finding.code for finding in found}
    return tuple(found), tuple(code for code in checks if code not in codes)


def _find_templates(check: Check, engines: Sequence[Engine]) -> Iterator[Finding]:
    without = [engine for engine in engines if engine.template is None]
    for source in dict.fromkeys(engine.template_source for engine in without):
        names = ", ".join(engine.name for engine in without if engine.template_source == source)
        yield check.found(f"{names} finds no chat template: {source}.")


def _find_stops(
    checks: dict[str, Check], folder: ServedFolder, trained: TrainedRows, engines: Sequence[Engine]
) -> Iterator[Finding]:
    for message, turns in find_missing(folder, engines, trained):
        yield replace(
            checks["SRV003"].found(message), count=turns, seen=trained.read, advice=_set_stops(folder, trained)
        )
    for message, rows in find_inside(folder, engines, trained):
        found = checks["SRV004"].found(message)
        evidence = tuple(Evidence(row, 0, 0, "") for row in rows[:SHOWN])
        yield replace(found, rows=len(rows), seen=trained.read, count=len(rows), evidence=evidence)


def _set_stops(folder: ServedFolder, trained: TrainedRows) -> str:
    """Return the lines that set the stops of the trained turns; the EOS is the end of most of them."""
    most = max(trained.ends, key=lambda end: trained.ends[end])
    [eos] = folder.name_ids([most])
    ids = sorted({*generation_eos(folder), *trained.ends})
    return f"tokenizer.eos_token = {eos!r}; model.generation_config.eos_token_id = {ids}"


def _find_causes(checks: dict[str, Check], comparisons: Sequence[Comparison], read: int) -> Iterator[Finding]:
    for cause, (code, meaning) in CAUSES.items():
        having = [one for one in comparisons if one.causes[cause]]
        if not having:
            continue
        counts = ", ".join(f"{one.engine.name} {one.causes[cause]} of {one.points}" for one in having)
        rows = set().union(*(one.rows[cause] for one in having))
        shown = [difference for one in having for difference in one.shown[cause]][:SHOWN]
        yield replace(
            checks[code].found(f"{cause}: {meaning}. Points that differ: {counts}."),
            where="rows",
            rows=len(rows),
            seen=read,
            count=sum(one.causes[cause] for one in having),
            evidence=tuple(map(_show, shown)),
        )


def _show(difference: Difference) -> Evidence:
    remark = f"turn {difference.turn}: trained; {difference.engine} feeds {difference.served!r}"
    return Evidence(difference.row, 0, 0, difference.trained, remark)
