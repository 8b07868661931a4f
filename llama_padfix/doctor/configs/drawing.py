"""Faults of a file as text with a caret under the place, as annotations, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from llama_padfix.core.text import printable
from llama_padfix.core.version import library_info
from llama_padfix.doctor.configs.check_file import CheckedFile
from llama_padfix.doctor.configs.settings import Fault
from llama_padfix.doctor.report_formats import escape_command
from llama_padfix.doctor.runner import load_checks

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject

SCHEMA = 1


@cache
def _names() -> Mapping[str, str]:
    return {check.code: check.name for check in load_checks()}


def as_text(file: CheckedFile) -> Iterator[str]:
    """Yield each fault with its line, drawn with carets."""
    for fault in file.faults:
        place = fault.place
        source = (file.lines[place.line - 1] if place.line <= len(file.lines) else "").replace("\t", " ")
        number = str(place.line)
        yield printable(f"{file.path}:{place.line}:{place.column}: {fault.severity} {_title(fault)}: {fault.message}")
        yield f"  {number} | {printable(source)}"
        yield f"  {' ' * len(number)} | {' ' * (place.column - 1)}{'^' * place.length}"
        yield f"    fix: {fault.fix}   page: docs/checks/{fault.code}.md, llama-padfix explain {fault.code}"


def as_github(file: CheckedFile) -> Iterator[str]:
    """Yield workflow commands, which GitHub shows at the line of the file."""
    for fault in file.faults:
        command = "notice" if fault.severity == "note" else fault.severity
        place, end = fault.place, fault.place.column + fault.place.length
        properties = (
            f"file={escape_command(file.path, in_property=True)},line={place.line},col={place.column},endColumn={end},"
            f"title={escape_command(_title(fault), in_property=True)}"
        )
        yield f"::{command} {properties}::{escape_command(f'{fault.message} Fix: {fault.fix}')}"


def as_json(files: Sequence[CheckedFile]) -> JsonObject:
    """Return all faults as values that JSON knows."""
    levels = [fault.severity for file in files for fault in file.faults]
    return {
        "schema": SCHEMA,
        "tool": library_info(),
        "summary": {level: levels.count(level) for level in ("error", "warning", "note")},
        "files": [{"path": file.path, "tool": file.tool or None} for file in files],
        "findings": [
            {
                "code": fault.code,
                "name": _names()[fault.code],
                "severity": fault.severity,
                "message": fault.message,
                "fix": fault.fix,
                "path": file.path,
                **asdict(fault.place),
            }
            for file in files
            for fault in file.faults
        ],
    }


def _title(fault: Fault) -> str:
    return f"{fault.code} {_names()[fault.code]}"
