"""What the checks of rows find in the rows of a view, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llama_padfix.doctor.check_helpers import mark_padding
from llama_padfix.doctor.facts import Facts, SampleFacts
from llama_padfix.doctor.findings import Check, Report, Severity
from llama_padfix.doctor.observe.data import observe_data
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.doctor.observe.tokenizer import make_decoder, observe_tokenizer
from llama_padfix.doctor.runner import load_checks, run_checks
from llama_padfix.view.read_rows import ReadRow, TakenRows

if TYPE_CHECKING:
    from llama_padfix.core.types import ConfiguredModel, TokenizerLike


@dataclass(frozen=True)
class Problem:
    """One place of a row where a check finds a fault."""

    code: str
    """The check; empty for a row that could not be encoded."""
    severity: Severity
    start: int
    """The first position."""
    end: int
    """The position after the last; 0 where the fault has no place."""
    count: int = 1
    """How often the fault occurs in the row."""
    remark: str = ""
    """More about the fault; why the row could not be encoded."""


@dataclass(frozen=True)
class CheckedRows:
    """The facts that the checks read, their report, and the problems by row number."""

    facts: Facts
    report: Report
    problems: Mapping[int, tuple[Problem, ...]]


def check_rows(
    taken: TakenRows,
    read: Sequence[ReadRow],
    tokenizer: TokenizerLike,
    model: ConfiguredModel | None,
    processor: Any = None,  # transformers.ProcessorMixin
) -> CheckedRows:
    """Run every check of rows, encoded or raw, and keep what each finds in each row."""
    facts = replace(observe_tokenizer(tokenizer, model, with_markers=True), environment=observe_environment())
    encoded = [item.facts for item in read if item.facts is not None]
    if encoded:
        columns = [name for name in ("labels", "attention_mask") if getattr(encoded[0], name) is not None]
        sample = SampleFacts(taken.source, len(encoded), taken.total, ("input_ids", *columns))
        facts = replace(facts, samples=(sample,))
    raw = [item.number for item in read if item.is_raw]
    if raw:
        facts = replace(facts, data=observe_data(taken.rows, tokenizer, taken.source, places=raw, processor=processor))
    catalog = [check for check in load_checks() if {"rows", "labels", "data"} & set(check.needs)]
    report = run_checks(facts, catalog, rows=encoded, decode=make_decoder(tokenizer))
    return CheckedRows(facts, report, {item.number: tuple(_find(item, facts, catalog, report)) for item in read})


def _find(item: ReadRow, facts: Facts, catalog: Sequence[Check], report: Report) -> Iterator[Problem]:
    """Yield the problems of a row: every hit of the checks of rows, and for raw rows the examples of findings."""
    inspecting = {check.code for check in catalog if check.inspect is not None}
    remarks = set()
    for finding in report.findings:
        for place in () if finding.code in inspecting else finding.evidence:
            if place.row == item.number:
                remark = place.remark or place.text
                remarks.add(remark)
                yield Problem(finding.code, finding.severity, place.start, place.end, remark=remark)
    if item.error and item.error not in remarks:
        yield Problem("", "error", 0, 0, remark=item.error)
    if item.facts is None:
        return
    row, found = mark_padding(item.facts, facts), {finding.code for finding in report.findings}
    for check in catalog:
        if check.inspect is None or check.code not in found:
            continue  # a check that found nothing in any row, or that was skipped, has no hit here
        if "labels" in check.needs and row.labels is None:
            continue
        for hit in check.inspect(row, facts):
            yield Problem(check.code, check.severity, hit.start, hit.end, hit.count, hit.remark)
