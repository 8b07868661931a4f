"""`llama-padfix mask`: show which tokens are trained, in the terminal or as a page."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from llama_padfix import PadfixError, view_mask
from llama_padfix.cli.arguments import Commands, add_command, row_numbers
from llama_padfix.doctor.observe.folder import fetch_folder, load_folder, observe_folder, saved_model
from llama_padfix.encoding.dataset.files import KINDS, open_rows
from llama_padfix.view.terminal import describe_findings, describe_view

_TERMINAL_ROWS, _PAGE_ROWS = 5, 200  # shown without --rows


def add_parser(commands: Commands) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "mask",
        help="show which tokens of some rows are trained",
        description="Exit status: 0 nothing above a note, 1 findings in the rows shown, 2 could not run. "
        "Rows that are not encoded go through the library's encoder first. No weight is loaded.",
        examples=("mask out train.jsonl --rows 3,17,40-44", "mask out train.jsonl --html mask.html"),
    )
    parser.add_argument(
        "target", metavar="MODEL", help="what a run saved, or a name on the hub: its tokenizer is used"
    )
    parser.add_argument("data", metavar="DATA", help=f"rows, encoded or not: {KINDS}")
    parser.add_argument(
        "--rows",
        metavar="N,A-B,..",
        type=row_numbers,
        help="numbers of rows, counted from 0 (the first 5; with --html the first 200)",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page instead; a file of that name is replaced")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the rows; return the exit status."""
    rows = open_rows(options.data)
    folder = observe_folder(fetch_folder(options.target))
    tokenizer, folder = load_folder(folder)
    if tokenizer is None:
        raise PadfixError(f"{options.target!r} gives no tokenizer: {folder.load_error}. Name the model that has it.")
    most = _PAGE_ROWS if options.html else _TERMINAL_ROWS
    numbers = list(range(min(len(rows), most)))
    if options.rows is not None:
        beyond = max(part.stop for part in options.rows) - 1
        if beyond >= len(rows):
            raise PadfixError(f"There is no row {beyond}: {options.data!r} holds the rows 0 to {len(rows) - 1}.")
        numbers = [number for part in options.rows for number in part]
    title = f"{Path(options.data).name}: what is trained"
    view = view_mask(rows, tokenizer, row_numbers=numbers, model=saved_model(folder), title=title)
    if options.html:
        print(f"{describe_view(view)}", *describe_findings(view), f"written to {view.save(options.html)}", sep="\n")
    else:
        in_color = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ
        print(view.to_text(color=in_color))
    if options.rows is None and len(rows) > most:
        print(f"the first {most} of {len(rows)} rows; others: --rows {most}-{min(2 * most, len(rows)) - 1}")
    levels = {problem.severity for row in view.rows for problem in row.problems}
    levels |= {finding.severity for finding in view.report.findings}
    return int(bool(levels - {"note"}))
