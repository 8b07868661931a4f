"""What a check is and returns: changes, findings, and the report of them, as plain frozen data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from llama_padfix.core.errors import PadfixError
from llama_padfix.core.html import html_block, html_lines, html_table
from llama_padfix.core.records import as_json, describe_record, record_html, short_repr
from llama_padfix.core.version import library_info
from llama_padfix.doctor import report_formats, report_html
from llama_padfix.doctor.facts import Facts, RowFacts, SampleFacts
from llama_padfix.doctor.row_facts import SourceTotals

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

__all__ = ["Change", "Check", "Facts", "Finding", "Findings", "Hit", "Hits", "Plan", "Report", "RowFacts"]

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
    """The reason, in one sentence."""

    safety: Safety = "safe"
    """Whether `fix` may apply it."""

    code: str = ""
    """The check that found it."""

    __repr__ = short_repr
    _repr_html_ = record_html

    def __str__(self) -> str:
        return f"{self.target}: {self.before!r} -> {self.after!r}  ({self.why})"


@dataclass(frozen=True)
class Plan:
    """The changes that a tokenizer and its model need, in the order in which they apply. Falsy when empty."""

    changes: tuple[Change, ...] = ()

    taken_back: tuple[Change, ...] = ()
    """Changes that were made and taken back, since another check failed with them; `why` names it."""

    left: tuple[str, ...] = ()
    """What no setting fixes, with the line that does, such as rows that are encoded already."""

    def __repr__(self) -> str:
        parts = [f"{len(self.changes)} changes"]
        parts += [f"{len(self.taken_back)} taken back"] * bool(self.taken_back) + [f"{len(self.left)} left"] * bool(
            self.left
        )
        return f"Plan({', '.join(parts)})"

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __str__(self) -> str:
        count = len(self.changes)
        lines = [f"{count} change{'s' if count > 1 else ''}:" if count else "Nothing to change."]
        for change in (*self.changes, *self.taken_back):
            back = "taken back: " if change in self.taken_back else ""
            lines.append(f"  {back}{change.target}: {change.before!r} -> {change.after!r}")
            lines.append(f"      {change.why}" + (f" [{change.code}]" if change.code else ""))
        return "\n".join([*lines, *(f"  left: {line}" for line in self.left)])

    def _repr_html_(self) -> str:
        header = ("setting", "before", "after", "why", "check")
        given = (("taken back: " * (c in self.taken_back), c) for c in (*self.changes, *self.taken_back))
        rows = [(back + c.target, repr(c.before), repr(c.after), c.why, c.code) for back, c in given]
        table = html_table(header, rows) if rows else "<p>Nothing to change.</p>"
        return html_block(table + html_lines(f"left: {line}" for line in self.left))


@dataclass(frozen=True)
class Hit:
    """One place in a row where a check finds its fault: positions `start` to `end`, how many times, and a remark."""

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
    runs: tuple[tuple[str, bool], ...] = ()
    """The text in runs, each with True where it is trained; empty for a row without labels."""


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

    advice: str = ""
    """The good example of the check, which is the fix where no change is."""

    __repr__ = short_repr
    _repr_html_ = record_html

    def __str__(self) -> str:
        return f"{self.severity} {self.code} {self.name}: {self.message}"


Findings: TypeAlias = Iterator[Finding]
"""What a check of facts yields."""

Hits: TypeAlias = Iterator[Hit]
"""What a check of rows yields for one row."""


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

    doc: str | None
    """The docstring of its module: a line, and the page in Markdown. `python -OO` has none."""

    bad: str
    """A short example of the fault."""

    good: str
    """The same example without it."""

    find: Callable[[Facts], Findings] | None = None
    """Reads `Facts` and yields findings."""

    inspect: Callable[[RowFacts, Facts], Hits] | None = None
    """In a check of rows: reads one row and yields the places."""

    message: str = ""
    """The message of a check of rows, with `{rows}`, `{seen}`, `{count}` and `{where}`."""

    judge: Callable[[Finding, SourceTotals], Finding | None] | None = None
    """In a check of rows: decides on what was found in all rows of a source; None for no finding after all."""

    traps: tuple[int, ...] = ()
    """Its numbers in the table of traps."""

    @property
    def explanation(self) -> str:
        """The page, in Markdown."""
        return (self.doc or "").partition("\n\n")[2]

    def found(self, message: str, changes: Iterable[Change] = (), severity: Severity | None = None) -> Finding:
        """Return a finding of this check, whose changes get its code.

        Args:
            message: what was found, with the numbers.
            changes: the assignments that fix it.
            severity: how severe this finding is, where it differs from the check's severity.
        """
        named = tuple(replace(change, code=self.code) for change in changes)
        return Finding(self.code, self.name, severity or self.severity, message, named, advice=self.good)


@dataclass(frozen=True)
class Report:
    """What the checks found, with the rows that were read."""

    findings: tuple[Finding, ...] = ()
    """The faults: errors first, and of one severity those that hurt most rows."""

    passed: tuple[str, ...] = ()
    """The codes of the checks that found nothing."""

    skipped: Mapping[str, str] = field(default_factory=dict)
    """By code, why a check did not run, or what it raised."""

    samples: tuple[SampleFacts, ...] = ()
    """Which rows were read, by source."""

    looked_at: tuple[str, ...] = ()
    """What was looked at besides rows: "tokenizer", "chat template", "model", "trainer", "folder", "raw rows"."""

    notes: tuple[str, ...] = ()
    """Where the tokenizer was found, and what was looked at or not looked at beside the rows: one sentence each."""

    apply: Callable[[Sequence[Change]], Plan] | None = field(default=None, repr=False, compare=False)
    """What `fix` calls with the changes; None where nothing can be changed (a dataset, a batch)."""

    def raise_for_errors(self, require: Sequence[str] = ()) -> None:
        """Do nothing if no finding is an error, and what is required was looked at.

        Args:
            require: what must have been looked at: "rows" for rows of every source that there is, or codes of checks
                that must have run.

        Raises:
            PadfixError: there are errors, or something that is required was not looked at; the message lists each,
                and ends with the line to type.
        """
        errors = [finding for finding in self.findings if finding.severity == "error"]
        lines = [str(finding) for finding in errors]
        lines += [f"not looked at: {line}" for part in require for line in self._unseen(part)]
        typed = (report_formats.fix_line(describe_record(finding), self.looked_at) for finding in errors)
        fixes = dict.fromkeys(line.partition("  #")[0] for line in typed)  # several on a line: no comments between
        if lines:
            raise PadfixError("\n".join([*lines, *([f"Fix: {'; then '.join(fixes)}"] if fixes else [])]))

    def _unseen(self, part: str) -> Iterator[str]:
        """Yield why a required part was not looked at."""
        if part != "rows":
            if part not in self.passed and all(finding.code != part for finding in self.findings):
                yield f"{part} ({self.skipped.get(part, 'it is not among the checks that ran')})"
        elif not self.samples:
            yield "rows (none were given)"
        else:
            for sample, shown in zip(self.samples, self.to_dict()["samples"], strict=True):
                if not sample.seen:
                    yield f"rows of the {shown['source']}" + (f": {sample.not_drawn}" if sample.not_drawn else "")

    def changes(self, safety: Safety = "safe") -> tuple[Change, ...]:
        """Return the changes of one safety that fix the findings."""
        return tuple(change for f in self.findings for change in f.changes if change.safety == safety)

    def fix(self, safety: Safety = "safe") -> Plan:
        """Apply the findings' changes of one safety, with the copies that a trainer keeps, and look again.

        Args:
            safety: "safe" for settings, "unsafe" for a template, ids or weights.

        Returns:
            The changes that were made, those that were taken back since another check failed, and what is left.

        Raises:
            PadfixError: the target cannot be changed, or `safety` is "manual". All settings are put back where one
                change raises.
        """
        if self.apply is None:
            raise PadfixError(
                "There is no tokenizer or model here to fix. Diagnose those: diagnose(tokenizer, model=...)"
            )
        if safety == "manual":
            raise PadfixError("A manual change is shown and never run. Apply 'safe' or 'unsafe' ones.")
        return self.apply(self.changes(safety))

    def to_dict(self) -> JsonObject:
        """Return the report as values that JSON knows; `schema` is the version of its keys."""
        levels = [finding.severity for finding in self.findings]
        return {
            "schema": report_formats.SCHEMA,
            "tool": library_info(),
            "summary": {level: levels.count(level) for level in ("error", "warning", "note")},
            "samples": [as_json(sample) for sample in self.samples],
            "looked_at": list(self.looked_at),
            "notes": list(self.notes),
            "findings": [self._describe(finding) for finding in self.findings],
            "passed": list(self.passed),
            "skipped": dict(self.skipped),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON in ASCII."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_html(self) -> str:
        """Return a self-contained HTML page without a script; everything in it is escaped."""
        return report_html.as_html(self.to_dict())

    def __repr__(self) -> str:
        return f"Report({report_formats.summarize(self.to_dict())})"

    def __str__(self) -> str:
        return report_formats.as_text(self.to_dict())

    def _repr_html_(self) -> str:
        return report_html.as_notebook(self.to_dict())

    def _describe(self, finding: Finding) -> JsonObject:
        entries = describe_record(finding)
        page = f"docs/checks/{finding.code}.md, llama-padfix explain {finding.code}"
        return {**entries, "fix": report_formats.fix_line(entries, self.looked_at), "page": page}
