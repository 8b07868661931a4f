"""Parsers of options, and what the subcommands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from typing import TypeAlias

from llama_padfix import Finding

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class _Help(argparse.HelpFormatter):
    """Keeps the lines of the examples, and fills all other texts."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)


def add_command(
    commands: Commands, name: str, *, help: str, examples: Iterable[str], description: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a new subcommand, whose help ends with examples."""
    epilog = "\n  llama-padfix ".join(["examples:", *examples])
    return commands.add_parser(name, help=help, description=description, epilog=epilog, formatter_class=_Help)


def status_of(findings: Iterable[Finding]) -> int:
    """Return the exit status of findings: 1 where one is more than a note."""
    return int(any(finding.severity != "note" for finding in findings))


def names(text: str) -> list[str]:
    """Return the names of "A,B"."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("no code is given")
    return found


def row_numbers(text: str) -> list[range]:
    """Return the numbers of "3", "0-9" or "3,17,40-44"."""
    parts = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise argparse.ArgumentTypeError(f"{part!r} is no row number and no range such as 0-9")
        parts.append(range(int(first), int(last if dash else first) + 1))
    return parts


def row_count(text: str) -> int | None:
    """Return a number of rows; None for "all"."""
    return None if text == "all" else positive(text)


def size(text: str) -> float:
    """Return a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def positive(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
