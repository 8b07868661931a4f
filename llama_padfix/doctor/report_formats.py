"""A report's dict (`Report.to_dict`) as text, a terminal table or GitHub annotations; `report_html` makes its HTML.

Text of a dataset may hold terminal escapes, line breaks that begin a workflow command, or script tags. Each form
escapes them, so that nothing in a report can run.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from llama_padfix.core.text import printable

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

SCHEMA = 1
"""The version of a report's dict; it rises when a key changes its meaning or is removed."""

NO_LABELS = "no labels to look at"
"""Why checks of labels were skipped where no row has them."""

LEVELS = ("error", "warning", "note")

_COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}
_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}  # what GitHub calls them
_PLACES = 3  # rows of evidence that a text shows
_OPEN, _CLOSE, _BREAK = "\u27e6", "\u27e7", "\u23ce"  # as the viewer marks what is trained, and a line break


def summarize(document: JsonObject) -> str:
    """Return "1 error, 0 warnings, 2 notes" and how many checks passed and were skipped."""
    counts = document["summary"]
    parts = [f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in LEVELS]
    return f"{', '.join(parts)}; {len(document['passed'])} passed, {len(document['skipped'])} skipped"


def describe_verdict(document: JsonObject) -> str:
    """Return "All clear: ..." where nothing is above a note, and in any case what was looked at."""
    seen = [f"{sample['seen']} rows ({sample['source']})" for sample in document["samples"] if sample["seen"]]
    looked_at = ", ".join([*document["looked_at"], *seen])
    passed, notes = len(document["passed"]), document["summary"]["note"]
    unseen = ", ".join(_name_unseen(document))
    looked = f"Looked at: {looked_at or 'nothing'}.{f' Not looked at: {unseen}.' if unseen else ''}"
    if any(document["summary"][level] for level in ("error", "warning")):
        return printable(looked)
    if not passed and not notes:
        return "No findings: no check had anything to look at."
    verdict = "Nothing is wrong in what was looked at" if unseen else "All clear"
    but = f" but for {notes} note{'' if notes == 1 else 's'}" if notes else ""
    return printable(f"{verdict}{but}: {passed} check{'' if passed == 1 else 's'} passed. {looked}")


def _name_unseen(document: JsonObject) -> Iterator[str]:
    """Yield what was not looked at: the tokenizer where there is none, rows that were not drawn, labels."""
    parts, samples = document["looked_at"], document["samples"]
    if "tokenizer" not in parts and (samples or not set(parts) <= {"installed versions"}):
        yield "a tokenizer (none was given or found)"
    yield from (sample["source"] for sample in samples if not sample["seen"])
    if "trainer" not in parts and NO_LABELS in document["skipped"].values() and any(each["seen"] for each in samples):
        yield "what is trained (the rows have no labels)"


def describe_sample(sample: JsonObject) -> str:
    """Return "looked at 64 of 380 rows (train batch)", with the reason where none was drawn."""
    total = "a stream of" if sample["total"] is None else sample["total"]
    why = f": {sample['not_drawn']}" if sample.get("not_drawn") else ""
    return printable(f"looked at {sample['seen']} of {total} rows ({sample['source']}){why}")


def name_call(looked_at: Collection[str]) -> str:
    """Return what is typed to diagnose such a target."""
    if "trainer" in looked_at:
        return "diagnose(trainer)"
    return "diagnose((tokenizer, model))" if "model" in looked_at else "diagnose(tokenizer)"


def fix_line(finding: JsonObject, looked_at: Collection[str]) -> str:
    """Return the fix of a finding in one line: what is called, typed or set by hand."""
    by_safety = {change["safety"]: change for change in reversed(finding["changes"])}
    unsafe = "" if "safe" in by_safety else "unsafe"
    if "safe" in by_safety or "unsafe" in by_safety:
        if "folder" in looked_at:
            return f"llama-padfix doctor FOLDER --fix OUT{' --unsafe' if unsafe else ''}"
        argument = '"unsafe"' if unsafe else ""
        return f"{name_call(looked_at)}.fix({argument})"
    if "manual" in by_safety:
        change = by_safety["manual"]
        return f"by hand: {change['target']} = {change['after']!r}"
    return str(finding["advice"]).strip().partition("\n")[0] or f"llama-padfix explain {finding['code']}"


def as_text(document: JsonObject) -> str:
    """Return a report for a log: one line a finding, indented under it the places, the changes and the fix."""
    lines: list[str] = []
    for finding in document["findings"]:
        lines.append(printable(f"{finding['severity']} {finding['code']} {finding['name']}: {finding['message']}"))
        lines += [f"    {line}" for line in _details(finding)]
    passed = printable(f"passed: {fold_codes(document['passed']) or 'none'}")
    return "\n".join([*lines, *list_read(document), passed, *list_skipped(document)])


def as_github(document: JsonObject) -> str:
    """Return workflow commands that GitHub shows as annotations, and the summary as a plain line."""
    lines = []
    for finding in document["findings"]:
        title = escape_command(f"{finding['code']} {finding['name']}", in_property=True)
        details = [finding["message"], *_details(finding)]
        command = _COMMANDS[finding["severity"]]
        lines.append(f"::{command} title={title}::{escape_command(chr(10).join(details))}")
    return "\n".join([*lines, *list_read(document), *list_skipped(document), summarize(document)])


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
    for line in list_read(document):
        console.print(text(line))
    for line in list_skipped(document):
        console.print(text(line, style="dim"))
    console.print(text(summarize(document), style="bold"))


def list_skipped(document: JsonObject) -> list[str]:
    """Return one line for each reason for which checks were skipped."""
    reasons: dict[str, list[str]] = {}
    for code, reason in document["skipped"].items():
        reasons.setdefault(reason, []).append(code)
    return [printable(f"skipped: {fold_codes(codes)} ({reason})") for reason, codes in reasons.items()]


def fold_codes(codes: Sequence[str]) -> str:
    """Return "BOS001, EMB001-EMB007": three codes or more in a row are one range."""
    runs: list[list[str]] = []
    for code in codes:
        family, number = code[:3], code[3:]
        follows = runs and runs[-1][-1][:3] == family and number.isdigit() and runs[-1][-1][3:].isdigit()
        if follows and int(number) == int(runs[-1][-1][3:]) + 1:
            runs[-1].append(code)
        else:
            runs.append([code])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _details(finding: JsonObject) -> Iterator[str]:
    for place in finding["evidence"][:_PLACES]:
        remark = f"  ({place['remark']})" if place["remark"] else ""
        span = f"[{place['start']}:{place['end']}] " if place["end"] > place["start"] else ""
        yield f"row {place['row']} {span}{_draw(place)}{printable(remark)}"
    if finding["evidence"][_PLACES:]:
        yield f"... and {max(finding['rows'], len(finding['evidence'])) - _PLACES} more rows"
    for change in finding["changes"]:
        becomes = f"{change['before']!r} -> {change['after']!r}"
        yield printable(f"{change['safety']} fix: {change['target']}: {becomes}  ({change['why']})")
    fix = "" if finding["fix"] in finding["message"] else f"fix: {finding['fix']}   "  # stated once
    yield printable(f"{fix}page: {finding['page']}")


def _draw(place: JsonObject) -> str:
    """Return a row's tokens on one line as the viewer draws them: trained text in double brackets."""
    if not place["runs"]:
        return printable(repr(place["text"]))
    marks = (_OPEN, _CLOSE, _BREAK)
    try:
        "".join(marks).encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        marks = ("[[", "]]", "\\n")
    drawn = ""
    for text, trained in place["runs"]:
        line = marks[2].join(printable(part) for part in text.split("\n"))
        drawn += f"{marks[0]}{line}{marks[1]}" if trained else line
    return drawn


def list_read(document: JsonObject) -> list[str]:
    """Return the lines on what was looked at."""
    return [describe_verdict(document), *map(describe_sample, document["samples"]), *map(printable, document["notes"])]


def escape_command(text: str, in_property: bool = False) -> str:
    """Escape as GitHub's own toolkit does (actions/toolkit, command.ts); the rest of what is not printable too."""
    lines = "\n".join(printable(line) for line in text.split("\n"))
    for character in "%\r\n:," if in_property else "%\r\n":
        lines = lines.replace(character, f"%{ord(character):02X}")
    return lines
