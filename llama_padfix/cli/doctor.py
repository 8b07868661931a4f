"""`llama-padfix doctor`: check a saved folder and its data, and write a fixed copy."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llama_padfix import PadfixError, Report, diagnose, heal_folder
from llama_padfix.cli.arguments import Commands, add_command, names, positive, row_count, status_of
from llama_padfix.cli.config import check_without_folder
from llama_padfix.core.text import printable
from llama_padfix.doctor.observe.folder import fetch_folder
from llama_padfix.doctor.report_formats import as_github, as_text, print_rich, summarize
from llama_padfix.doctor.runner import select_checks
from llama_padfix.encoding.dataset.files import KINDS, open_rows
from llama_padfix.serving.generation.saved_model import check_folder

if TYPE_CHECKING:
    from llama_padfix.core.types import JsonObject


def add_parser(commands: Commands) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "doctor",
        help="say what is wrong with a saved folder, a GGUF file, a config or a script, and with the data",
        description="Exit status: 0 nothing above a note, 1 findings, 2 could not run. No weight is loaded "
        "without --generate.",
        examples=(
            "doctor out --data train.jsonl",
            "doctor out --fix fixed",
            "doctor out --data held_back.jsonl --generate",
            "doctor config.yaml train.py --format github",
            "doctor --environment",
        ),
    )
    parser.add_argument(
        "targets",
        metavar="FOLDER_OR_CONFIG",
        nargs="*",
        help="what a run saved, or a name on the hub; or configs of Axolotl, LLaMA-Factory or ms-swift (.yaml) and "
        "training scripts (.py), which are read and not run",
    )
    parser.add_argument(
        "--environment", action="store_true", help="look at the installed versions, and at nothing else"
    )
    parser.add_argument("--data", metavar="FILE", help=f"rows, encoded or not: {KINDS}")
    parser.add_argument(
        "--format", choices=("text", "json", "github"), default="text", help="the form of what is printed (text)"
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    parser.add_argument("--html", metavar="FILE", help="also write the report as a page")
    parser.add_argument(
        "--select", metavar="C,..", type=names, help="only the checks of these codes, beginnings of codes, or names"
    )
    parser.add_argument("--ignore", metavar="C,..", type=names, help="all checks but these")
    parser.add_argument("--max-rows", metavar="N", type=row_count, default=1000, help="rows to sample, or all (1000)")
    parser.add_argument("--fix", metavar="OUT", help="write a repaired copy of the settings into a new folder")
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="with --fix: also change the tokenizer's class, ids, or the chat template",
    )
    parser.add_argument(
        "--generate",
        metavar="N",
        type=positive,
        nargs="?",
        const=20,
        help="generate answers to so many rows of --data (20) on the CPU, and report whether they stop",
    )
    parser.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=positive,
        default=256,
        help="with --generate: the most tokens of an answer (256)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check the target; return the exit status."""
    status = check_without_folder(options)
    if status is not None:
        return status
    if len(options.targets) > 1:
        raise PadfixError(
            "Several folders are named, and one is looked at. Name one, or several configs (.yaml, .py)."
        )
    if not options.targets:
        raise PadfixError(
            "Nothing is named to look at. llama-padfix doctor FOLDER, or: llama-padfix doctor --environment"
        )
    if options.unsafe and not options.fix:
        raise PadfixError("--unsafe goes with --fix OUT: a folder is never changed in place.")
    if options.generate and options.fix:
        raise PadfixError("--generate asks the weights, which --fix leaves as they are. Run one after the other.")
    select_checks(options.select, options.ignore)  # an unknown code is an error before anything is loaded
    if options.fix and Path(options.fix).exists():
        raise PadfixError(f"{options.fix!r} exists already, and nothing is written over it. Name a new folder.")
    rows = open_rows(options.data) if options.data else None
    folder = fetch_folder(options.targets[0])
    chosen = {"select": options.select, "ignore": options.ignore}
    settings = {**chosen, "max_rows": options.max_rows, "dataset": rows}
    report = diagnose(folder, progress=sys.stderr.isatty(), **settings)
    generated: JsonObject = {}
    if options.generate:
        shown = sys.stderr.isatty()
        stops = check_folder(folder, rows, options.generate, max_new_tokens=options.max_new_tokens, progress=shown)
        report, generated = stops.add_to(report), {"generated": stops.describe()}
    _print_report(report, options.format, generated)
    if options.html:
        Path(options.html).write_text(report.to_html(), encoding="utf-8", errors="xmlcharrefreplace")
    if options.fix:
        repaired = heal_folder(folder, options.fix, unsafe=options.unsafe, **chosen)
        stream = sys.stderr if options.format == "json" else sys.stdout
        print("", *map(printable, str(repaired).splitlines()), sep="\n", file=stream)
        report = repaired.left if rows is None else diagnose(options.fix, **settings)
        left = [printable(finding) for finding in report.findings]
        print(f"left: {'; '.join(left) or 'nothing'}", file=stream)
    return status_of(report.findings)


def _print_report(report: Report, form: str, generated: JsonObject) -> None:
    document = report.to_dict()
    if form == "json":
        print(json.dumps({**document, **generated}, indent=2))
    elif form == "github":
        print(as_github(document))
    elif importlib.util.find_spec("rich") is None or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        print(as_text(document), summarize(document), sep="\n")
    else:
        print_rich(document)
