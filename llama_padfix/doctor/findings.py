"""Plain frozen data that flows through the library: no torch, no transformers, nothing that acts."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.version import library_info
from llama_padfix.doctor import report_formats
from llama_padfix.doctor.facts import (
    Facts,
    RowFacts,
    SampleFacts,
)

__all__ = ["MAX_EVIDENCE", "Change", "Check", "Evidence", "Finding", "Hit", "Plan", "Report", "Safety", "Severity"]

Safety = Literal["safe", "unsafe", "manual"]
"""`safe`: settings only. `unsafe`: a template, ids or weights. `manual`: shown, never run."""

Severity = Literal["error", "warning", "note"]

MAX_EVIDENCE = 5
"""Rows of evidence that a finding keeps."""


@dataclass(frozen=True)
class Change:
    """One assignment that fixes a fault, as data."""

    target: str
    """A dotted path such as `model.generation_config.eos_token_id`."""

    before: object
    """The value that is held, a plain one."""

    after: object
    """The value to set, a plain one."""

    why: str
    """One sentence for the person who reads the plan."""

    safety: Safety = "safe"
    """Whether `fix` may apply it."""

    code: str = ""
    """The check that found it."""

    def __str__(self) -> str:
        return f"{self.target}: {self.before!r} -> {self.after!r}  ({self.why})"


@dataclass(frozen=True)
class Plan:
    """The changes that a tokenizer and its model need, in the order in which they apply. Falsy when empty."""

    changes: tuple[Change, ...] = ()

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __str__(self) -> str:
        if not self.changes:
            return "Nothing to change."
        count = len(self.changes)
        lines = [f"{count} change{'s' if count > 1 else ''}:"]
        for change in self.changes:
            lines.append(f"  {change.target}: {change.before!r} -> {change.after!r}")
            lines.append(f"      {change.why}" + (f" [{change.code}]" if change.code else ""))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        if not self.changes:
            return "<p>Nothing to change.</p>"
        rows = [
            (change.target, repr(change.before), repr(change.after), change.why, change.code)
            for change in self.changes
        ]
        return _html_table(("setting", "before", "after", "why", "check"), rows)


@dataclass(frozen=True)
class Hit:
    """One place in a row where a check sees its fault: positions `start` to `end`, how many times, and a remark."""

    start: int
    end: int
    count: int = 1
    remark: str = ""


@dataclass(frozen=True)
class Evidence:
    """One row of a finding: its number in `Finding.where`, the positions, and the decoded tokens around them."""

    row: int
    start: int
    end: int
    text: str
    remark: str = ""


@dataclass(frozen=True)
class Finding:
    """One fault that was found: which, how severe, in numbers, and the changes that fix it."""

    code: str
    """The code of the check."""

    name: str
    """The name of the check."""

    severity: Severity
    """How severe the fault is."""

    message: str
    """What was found, with the numbers."""

    changes: tuple[Change, ...] = ()
    """The assignments that fix it."""

    where: str = ""
    """The source of the rows, empty where it is no fault of rows."""

    rows: int = 0
    """How many rows have the fault."""

    seen: int = 0
    """How many rows were read."""

    count: int = 0
    """How many times it occurs in all."""

    evidence: tuple[Evidence, ...] = ()
    """The first few rows that have it."""

    def __str__(self) -> str:
        return f"{self.severity} {self.code} {self.name}: {self.message}"


@dataclass(frozen=True)
class Check:
    """One trap: a pure function that finds it, and the page that explains it."""

    code: str
    """Three letters of its family and a number."""

    name: str
    """What is wrong, in words with hyphens."""

    severity: Severity
    """How severe its findings are."""

    needs: tuple[str, ...]
    """The parts of the facts without which it is skipped (`Facts.present`); "labels" skips rows without them."""

    explanation: str
    """The page, in Markdown."""

    bad: str
    """A short example of the fault."""

    good: str
    """The same example without it."""

    find: Callable[[Facts], Iterator[Finding]] | None = None
    """Reads `Facts` and yields findings."""

    inspect: Callable[[RowFacts, Facts], Iterator[Hit]] | None = None
    """In a check of rows: reads one row and yields the places."""

    message: str = ""
    """The message of a check of rows, with `{rows}`, `{seen}`, `{count}` and `{where}`."""

    traps: tuple[int, ...] = ()
    """Its numbers in the table of traps."""

    def found(self, message: str, changes: tuple[Change, ...] = (), severity: Severity | None = None) -> Finding:
        """Return a finding of this check."""
        return Finding(self.code, self.name, severity or self.severity, message, changes)


@dataclass(frozen=True)
class Report:
    """What the catalogue of checks said; a check that could not look is listed in `skipped` with its reason.

    `samples` says which rows were looked at. `apply` is what `fix` calls with the changes, None where nothing
    can be changed (a dataset, a batch).
    """

    findings: tuple[Finding, ...] = ()
    passed: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[SampleFacts, ...] = ()
    apply: Callable[[Sequence[Change]], Plan] | None = field(default=None, repr=False, compare=False)

    def raise_for_errors(self) -> None:
        """Raise `PadfixError` listing every finding of severity error; do nothing when there is none."""
        errors = [str(finding) for finding in self.findings if finding.severity == "error"]
        if errors:
            raise PadfixError("\n".join(errors))

    def changes(self, safety: Safety = "safe") -> tuple[Change, ...]:
        """Return the changes of that safety that the findings ask for."""
        return tuple(change for f in self.findings for change in f.changes if change.safety == safety)

    def fix(self, safety: Safety = "safe") -> Plan:
        """Apply the findings' changes of that safety to the objects that were diagnosed; return what was done."""
        if self.apply is None:
            raise PadfixError(
                "There is no tokenizer or model here to fix. Diagnose those: diagnose(tokenizer, model=...)"
            )
        if safety == "manual":
            raise PadfixError("A manual change is shown and never run. Apply 'safe' or 'unsafe' ones.")
        return self.apply(self.changes(safety))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON; `schema` is the version of its keys."""
        levels = [finding.severity for finding in self.findings]
        return {
            "schema": report_formats.SCHEMA,
            "tool": library_info(),
            "summary": {level: levels.count(level) for level in ("error", "warning", "note")},
            "samples": [_plain(sample) for sample in self.samples],
            "findings": [_plain(finding) for finding in self.findings],
            "passed": list(self.passed),
            "skipped": dict(self.skipped),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON in ASCII."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_html(self) -> str:
        """Return a page that stands alone, without a script, everything in it escaped."""
        return report_formats.as_html(self.to_dict())

    def __str__(self) -> str:
        return report_formats.as_text(self.to_dict())

    def _repr_html_(self) -> str:
        rows: list[Sequence[str]] = [(f.severity, f.code, f.name, f.message) for f in self.findings]
        rows += [("skipped", code, "", reason) for code, reason in self.skipped.items()]
        return _html_table(("severity", "code", "name", "what was seen"), rows)


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plain(value: Any) -> Any:
    """Return a record as a dict, a sequence as a list, and what JSON does not know as its `repr`."""
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    known = value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    return value if known else repr(value)
