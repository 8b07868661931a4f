"""A report's dict (`Report.to_dict`) as text, a terminal table, an HTML page or GitHub annotations.

Text of a dataset may hold terminal escapes, line breaks that begin a workflow command, or script tags. Each form
escapes them, so that nothing in a report can run.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from llama_padfix.core.text import printable

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

SCHEMA = 1
"""The version of a report's dict; it rises when a key changes its meaning or is removed."""

_COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}
_CHANGE_COLUMNS = ("target", "before", "after", "why", "safety")
_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}  # what GitHub calls them

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
article { border-left: 4px solid #888; margin: 1rem 0; padding: .1rem 1rem; }
.error { border-color: #c62828; } .warning { border-color: #ef9400; } .note { border-color: #1769aa; }
table { border-collapse: collapse; } td, th { border: 1px solid #8886; padding: .2rem .5rem; text-align: left; }
code, td { overflow-wrap: anywhere; } code { white-space: pre-wrap; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } }
"""


def summarize(document: JsonObject) -> str:
    """Return "1 error, 0 warnings, 2 notes" and how many checks passed and were skipped."""
    counts = document["summary"]
    parts = [f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in ("error", "warning", "note")]
    return f"{', '.join(parts)}; {len(document['passed'])} passed, {len(document['skipped'])} skipped"


def describe_sample(sample: JsonObject) -> str:
    """Return "looked at 64 of 380 rows (train batch)", with the reason where none was drawn."""
    total = "a stream of" if sample["total"] is None else sample["total"]
    why = f": {sample['not_drawn']}" if sample.get("not_drawn") else ""
    return printable(f"looked at {sample['seen']} of {total} rows ({sample['source']}){why}")


def as_text(document: JsonObject) -> str:
    """Return a report for a log: one line a finding, indented under it the places and the changes."""
    lines: list[str] = []
    for finding in document["findings"]:
        lines.append(printable(f"{finding['severity']} {finding['code']} {finding['name']}: {finding['message']}"))
        lines += [f"    {line}" for line in _details(finding)]
    samples, skipped = _read_and_skipped(document)
    passed = printable(f"passed: {', '.join(document['passed']) or 'none'}")
    return "\n".join([*(lines or ["No findings."]), *samples, passed, *skipped])


def as_github(document: JsonObject) -> str:
    """Return workflow commands that GitHub shows as annotations, and the summary as a plain line."""
    lines = []
    for finding in document["findings"]:
        title = _escape_command(f"{finding['code']} {finding['name']}", in_property=True)
        details = [finding["message"], *_details(finding)]
        command = _COMMANDS[finding["severity"]]
        lines.append(f"::{command} title={title}::{_escape_command(chr(10).join(details))}")
    samples, skipped = _read_and_skipped(document)
    return "\n".join([*lines, *samples, *skipped, summarize(document)])


def as_html(document: JsonObject) -> str:
    """Return a page that stands alone: no script, no address, every character of a finding escaped."""
    articles = "".join(_article(finding) for finding in document["findings"]) or "<p>No findings.</p>"
    read = (*(f"{describe_sample(sample)}." for sample in document["samples"]), *map(printable, document["notes"]))
    samples = "".join(f"<p>{html.escape(line)}</p>" for line in read)
    skipped = html_table((), [(codes, reason) for reason, codes in _by_reason(document)])
    made_by = html.escape(f"{document['tool']['name']} {document['tool']['version']}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{made_by}: report</title><style>{_STYLE}</style></head><body>"
        f"<h1>{made_by}</h1><p><strong>{html.escape(summarize(document))}</strong></p>{samples}{articles}"
        f"<h2>Passed</h2><p>{html.escape(', '.join(document['passed']) or 'none')}</p>"
        f"<h2>Skipped</h2>{skipped}</body></html>\n"
    )


def print_rich(document: JsonObject) -> None:
    """Print a table to the terminal with rich, whose markup in a finding is text."""
    console = importlib.import_module("rich.console").Console(highlight=False)
    table = importlib.import_module("rich.table").Table(show_lines=True)
    text = importlib.import_module("rich.text").Text
    for header in ("", "check", "what was seen"):
        table.add_column(header)
    for finding in document["findings"]:
        severity = finding["severity"]
        seen = "\n".join([printable(finding["message"]), *_details(finding)])
        named = text(f"{finding['code']}\n{finding['name']}")
        table.add_row(text(severity, style=_COLORS[severity]), named, text(seen))
    if document["findings"]:
        console.print(table)
    samples, skipped = _read_and_skipped(document)
    for line in samples:
        console.print(text(line))
    for line in skipped:
        console.print(text(line, style="dim"))
    console.print(text(summarize(document), style="bold"))


def _details(finding: JsonObject) -> Iterator[str]:
    for place in finding["evidence"]:
        remark = f"  ({place['remark']})" if place["remark"] else ""
        span = f"[{place['start']}:{place['end']}] " if place["end"] > place["start"] else ""
        yield printable(f"row {place['row']} {span}{place['text']!r}{remark}")
    for change in finding["changes"]:
        becomes = f"{change['before']!r} -> {change['after']!r}"
        yield printable(f"{change['safety']} fix: {change['target']}: {becomes}  ({change['why']})")


def _read_and_skipped(document: JsonObject) -> tuple[list[str], list[str]]:
    """Return the lines on the rows that were read, and those on the checks that were skipped."""
    skipped = [printable(f"skipped: {codes} ({reason})") for reason, codes in _by_reason(document)]
    samples = [describe_sample(sample) for sample in document["samples"]]
    return [*samples, *map(printable, document["notes"])], skipped


def _by_reason(document: JsonObject) -> Sequence[tuple[str, str]]:
    reasons: dict[str, list[str]] = {}
    for code, reason in document["skipped"].items():
        reasons.setdefault(reason, []).append(code)
    return [(reason, ", ".join(codes)) for reason, codes in reasons.items()]


def _escape_command(text: str, in_property: bool = False) -> str:
    """Escape as GitHub's own toolkit does (actions/toolkit, command.ts); the rest of what is not printable too."""
    lines = "\n".join(printable(line) for line in text.split("\n"))
    for character in "%\r\n:," if in_property else "%\r\n":
        lines = lines.replace(character, f"%{ord(character):02X}")
    return lines


def _article(finding: JsonObject) -> str:
    places = "".join(
        f"<tr><td>{place['row']}</td><td>{place['start']}:{place['end']}</td>"
        f"<td><code>{html.escape(place['text'])}</code></td><td>{html.escape(place['remark'])}</td></tr>"
        for place in finding["evidence"]
    )
    changes = [[change[column] for column in _CHANGE_COLUMNS] for change in finding["changes"]]
    return (
        f'<article class="{finding["severity"]}"><h2>{finding["severity"]} {html.escape(finding["code"])} '
        f"{html.escape(finding['name'])}</h2><p>{html.escape(finding['message'])}</p>"
        + (f"<table><tr><th>row</th><th>tokens</th><th>text</th><th></th></tr>{places}</table>" if places else "")
        + (html_table(_CHANGE_COLUMNS, changes) if changes else "")
        + "</article>"
    )


def html_table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table whose cells are escaped; an empty header is left out."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    cells = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
