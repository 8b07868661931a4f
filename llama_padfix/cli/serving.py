"""`llama-padfix serving`: what serving engines feed and stop at, against what was trained."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llama_padfix import ChatEncoder, PadfixError, check_serving, export_for_serving
from llama_padfix.cli.arguments import Commands, add_command, names, positive, status_of
from llama_padfix.doctor.report_formats import as_github, summarize
from llama_padfix.encoding.dataset.files import KINDS, open_rows
from llama_padfix.serving.engines.catalogue import ENGINES
from llama_padfix.serving.folder import read_served_folder


def add_parser(commands: Commands) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "serving",
        help="compare what serving engines feed with what was trained",
        description="Exit status: 0 the same, 1 differences, 2 could not run. No weight is loaded, no code run.",
        examples=("serving out train.jsonl", "serving out train.jsonl --engine vllm,tgi --export served"),
    )
    parser.add_argument("folder", metavar="FOLDER", help="what a run saved, with its tokenizer")
    parser.add_argument("data", metavar="DATA", nargs="?", help=f"the rows that were trained: {KINDS}")
    parser.add_argument("--engine", metavar="E,..", type=names, help=f"only these of {', '.join(ENGINES)}")
    parser.add_argument(
        "--url", metavar="URL", help="a llama-server, vLLM or SGLang that runs: the ids that it really feeds"
    )
    parser.add_argument("--rows", metavar="N", type=positive, default=200, help="the most rows to read (200)")
    parser.add_argument("--date", metavar="DATE", help="the date that the training pinned, such as 2026-11-29")
    parser.add_argument("--template-kwargs", metavar="JSON", help="arguments of the template in the training")
    parser.add_argument(
        "--format", choices=("text", "json", "github"), default="text", help="the form of what is printed (text)"
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    parser.add_argument("--export", metavar="OUT", help="write a copy that the engines read alike, and compare it")
    parser.add_argument("--html", metavar="FILE", help="also write the report as a page")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare; return the exit status."""
    rows = open_rows(options.data) if options.data else None
    encoder = None
    if options.date or options.template_kwargs:
        kwargs = _read_kwargs(options.template_kwargs)
        encoder = ChatEncoder(
            read_served_folder(options.folder).tokenizer, date=options.date, template_kwargs=kwargs, on_error="drop"
        )
    settings = {"engines": options.engine, "rows": options.rows, "encoder": encoder}
    if options.export and options.url:
        raise PadfixError("--export writes files, and --url asks a server that runs. Run one after the other.")
    if options.export:
        report = export_for_serving(options.folder, options.export, rows, **settings)
    else:
        report = check_serving(options.folder, rows, url=options.url, **settings)
    if options.html:
        Path(options.html).write_text(report.to_html(), encoding="utf-8", errors="xmlcharrefreplace")
    if options.format == "json":
        print(report.to_json())
    elif options.format == "github":
        print(as_github(report.to_dict()))
    else:
        print(report, summarize(report.to_dict()), sep="\n")
    return status_of(report.findings)


def _read_kwargs(text: str | None) -> dict[str, object]:
    try:
        held = json.loads(text or "{}")
    except ValueError:
        held = None
    if not isinstance(held, dict):
        raise PadfixError(f"--template-kwargs {text!r} is no JSON object. Write: '{{\"enable_thinking\": false}}'")
    return held
