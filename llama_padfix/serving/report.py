"""What a comparison found, as a report in the forms of the doctor's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_padfix.core.records import as_json, describe_record
from llama_padfix.core.text import printable
from llama_padfix.core.version import library_info
from llama_padfix.doctor import report_formats, report_html
from llama_padfix.doctor.findings import Finding
from llama_padfix.serving.row_kinds import KINDS, RowKind

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject


@dataclass(frozen=True)
class EngineSummary:
    """One engine: what was compared, and what it reads of the folder."""

    name: str
    """Its name."""

    version: str = ""
    """What was run or read."""

    missing: str = ""
    """The line that installs what it runs, where that is not installed; everything else is then empty."""

    points: int = 0
    """Generation points that were compared."""

    differing: int = 0
    """Points whose ids differ from those that were trained."""

    causes: Mapping[str, int] = field(default_factory=dict)
    """Points by cause; a point with two causes counts for both."""

    bos: tuple[int, ...] = ()
    """How many BOS tokens stand first in its prompts."""

    stops: tuple[str, ...] = ()
    """The tokens and texts at which it ends an answer."""

    stop_ids: tuple[int, ...] = ()
    """The ids at which it ends an answer."""

    stop_source: str = ""
    """Where it reads those; empty for one that renders and does not generate."""

    template_source: str = ""
    """Where it reads the chat template."""

    sampling: Mapping[str, object] = field(default_factory=dict)
    """The settings of sampling that it takes from the folder."""

    notes: tuple[str, ...] = ()
    """What else is to be said of it."""


@dataclass(frozen=True)
class Proposal:
    """What would make an engine feed the rows as they are trained, tried on the first of them."""

    engine: str
    """The engine."""

    arguments: Mapping[str, object] = field(default_factory=dict)
    """Arguments of `prepare` to train with."""

    template: str = field(default="", repr=False)
    """A chat template to train with and to save, which writes the trained texts; empty for the tokenizer's own."""

    changes: tuple[str, ...] = ()
    """What that template does otherwise, a sentence each."""

    points: int = 0
    """Generation points on which it was tried."""

    differing: int = 0
    """How many of these differ now."""

    left: int = 0
    """How many would differ then."""

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        steps = [f"prepare(..., {given})"] if given else []
        if self.template:
            what = "; ".join(self.changes) or "the template of the training"
            steps.append(f"tokenizer.chat_template = proposal.template ({what})")
        counted = f"{self.left} of {self.points} points differ, {self.differing} without"
        return printable(f"{self.engine}: with {' and '.join(steps)} {counted}")


@dataclass(frozen=True)
class ServingReport:
    """What engines do with a folder, against what was trained. `to_dict`, `to_json` and `to_html` hold all of it."""

    engines: tuple[EngineSummary, ...] = ()
    """The engines, in the order in which they were asked for."""

    findings: tuple[Finding, ...] = ()
    """The differences: errors first."""

    passed: tuple[str, ...] = ()
    """The codes of which nothing was found."""

    rows: int = 0
    """How many rows were read."""

    points: int = 0
    """How many generation points they have."""

    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many rows have no point, by the reason."""

    kinds: Mapping[RowKind, int] = field(default_factory=dict)
    """How many of the rows that were read are a "conversation", a "preference" or a "prompt"."""

    changes: tuple[str, ...] = ()
    """What was changed in the copy that `export_for_serving` wrote, a sentence each."""

    commands: tuple[str, ...] = ()
    """What files cannot do, as lines for a server's command line or Modelfile."""

    proposals: tuple[Proposal, ...] = ()
    """What would make rows the same that are not trained yet, from `prepare(..., serve_with=...)`."""

    source: str = "dataset"
    """Where the rows are from: "dataset", or "chats of its own"."""

    beyond_files: tuple[str, ...] = ()
    """The differences that the copy keeps, with why and what to do, a line for each engine and cause."""

    def to_dict(self) -> JsonObject:
        """Return the report as values that JSON knows, in the keys of the doctor's and `engines`."""
        levels = [finding.severity for finding in self.findings]
        notes = [
            *self._table(),
            *(f"changed: {one}" for one in self.changes),
            *(f"start: {one}" for one in self.commands),
            *(f"beyond files: {one}" for one in self.beyond_files),
            *(f"proposed: {one}" for one in self.proposals),
        ]
        if set(self.kinds) - {"conversation"}:
            notes += [f"{count} rows are {KINDS[kind]}" for kind, count in self.kinds.items()]
        notes += [f"{count} rows left out: {why}" for why, count in self.left_out.items()]
        return {
            "schema": report_formats.SCHEMA,
            "tool": library_info(),
            "summary": {level: sum(one == level for one in levels) for level in report_formats.LEVELS},
            "samples": [{"source": self.source, "seen": self.rows, "total": self.rows, "not_drawn": None}],
            "looked_at": ["tokenizer", "chat template", "folder"],
            "notes": notes,
            "engines": [as_json(engine) for engine in self.engines],
            "points": self.points,
            "changes": list(self.changes),
            "commands": list(self.commands),
            "beyond_files": list(self.beyond_files),
            "proposals": [{**describe_record(one), "said": str(one)} for one in self.proposals],
            "left_out": dict(self.left_out),
            "kinds": dict(self.kinds),
            "findings": [_describe(finding) for finding in self.findings],
            "passed": list(self.passed),
            "skipped": {},
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON in ASCII."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_html(self) -> str:
        """Return a self-contained HTML page without a script; everything in it is escaped."""
        return report_html.as_html(self.to_dict())

    def __repr__(self) -> str:
        return f"ServingReport({len(self.engines)} engines, {self.points} points, {len(self.findings)} findings)"

    def __str__(self) -> str:
        return report_formats.as_text(self.to_dict())

    def _repr_html_(self) -> str:
        return report_html.as_notebook(self.to_dict())

    def _table(self) -> Iterator[str]:
        """Yield a table with a line for each engine."""
        header = ("engine", "points that differ", "BOS", "stops", "template from", "sampling", "by")
        rows = [header, *(_cells(engine) for engine in self.engines if not engine.missing)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield from (f"{one.name}: not installed; {one.missing}" for one in self.engines if one.missing)
        yield from (f"{one.name}: {note}" for one in self.engines for note in one.notes)


def _cells(engine: EngineSummary) -> Sequence[str]:
    causes = ", ".join(f"{cause} {count}" for cause, count in engine.causes.items())
    differ = f"{engine.differing} of {engine.points}" if engine.points else "not compared"
    sampling = ", ".join(f"{name}={value}" for name, value in engine.sampling.items())
    cells = (
        engine.name,
        f"{differ} ({causes})" if causes else differ,
        ", ".join(map(str, engine.bos)) or "-",
        " ".join(engine.stops) or ("none" if engine.stop_source else "-"),
        engine.template_source,
        sampling or "none",
        engine.version,
    )
    return [printable(cell) for cell in cells]


def _describe(finding: Finding) -> JsonObject:
    page = f"docs/checks/{finding.code}.md, llama-padfix explain {finding.code}"
    return {**describe_record(finding), "fix": finding.advice.partition("\n")[0], "page": page}
