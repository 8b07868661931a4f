"""The command `llama-padfix`."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from llama_padfix import __version__
from llama_padfix.core.errors import PadfixError
from llama_padfix.core.text import plain
from llama_padfix.doctor.check_pages import describe_check, page
from llama_padfix.doctor.diagnose import diagnose
from llama_padfix.doctor.facts import Facts
from llama_padfix.doctor.findings import Report
from llama_padfix.doctor.observe.environment import observe_environment
from llama_padfix.doctor.observe.files import open_rows
from llama_padfix.doctor.observe.folder import fetch_folder, load_folder, observe_folder, saved_model
from llama_padfix.doctor.repair_folder import heal_folder
from llama_padfix.doctor.report_formats import as_github, as_text, print_rich, summarize
from llama_padfix.doctor.runner import load_checks, run_checks, select_checks
from llama_padfix.training.memory.estimate import MemoryEstimate, estimate_memory
from llama_padfix.training.memory.step import OPTIMIZERS
from llama_padfix.view.mask_view import view_mask
from llama_padfix.view.terminal import describe_findings, describe_view

__all__ = ["main"]

_TERMINAL_ROWS, _PAGE_ROWS = 5, 200  # shown where nobody says which


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done and clean, 1 findings, 2 could not run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what an ASCII terminal cannot print is spelled out
    options = _parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except PadfixError as error:
        print(f"llama-padfix: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Exception as error:  # 1 would say that something was found
        print(f"llama-padfix: {type(error).__name__}: {plain(error)}", file=sys.stderr)
        print("This is a fault of llama-padfix or of the files; please report it.", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llama-padfix", description="Make chat models fine-tune right.")
    parser.add_argument("--version", action="version", version=f"llama-padfix {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    doctor = commands.add_parser(
        "doctor",
        help="say what is wrong with a saved folder and its data",
        description="Exit status: 0 nothing above a note, 1 findings, 2 could not run. No weight is loaded.",
    )
    doctor.add_argument("target", metavar="MODEL_OR_FOLDER", nargs="?", help="what a run saved, or a name on the hub")
    doctor.add_argument(
        "--environment", action="store_true", help="look at the installed versions, and at nothing else"
    )
    doctor.add_argument("--data", metavar="FILE", help="rows to look at, encoded or not: .jsonl, .json or .parquet")
    doctor.add_argument("--format", choices=("text", "json", "github"), default="text", help="of what is printed")
    doctor.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    doctor.add_argument("--html", metavar="FILE", help="also write a page")
    doctor.add_argument("--select", metavar="C,..", type=_names, help="only these codes, beginnings or names")
    doctor.add_argument("--ignore", metavar="C,..", type=_names, help="all but these")
    doctor.add_argument("--max-rows", metavar="N", type=_rows, default=1000, help="rows to sample, or all (1000)")
    doctor.add_argument("--fix", metavar="OUT", help="write a healed copy of the settings into a new folder")
    doctor.add_argument("--unsafe", action="store_true", help="with --fix: also change the class, ids, a template")
    doctor.set_defaults(run=_doctor)
    mask = commands.add_parser(
        "mask",
        help="show which tokens of some rows are trained",
        description="Exit status: 0 nothing above a note, 1 findings in the rows shown, 2 could not run. "
        "Rows that are not encoded go through the library's encoder first. No weight is loaded.",
    )
    mask.add_argument("target", metavar="MODEL", help="what a run saved, or a name on the hub: its tokenizer is used")
    mask.add_argument("data", metavar="DATA", help="rows, encoded or not: .jsonl, .json or .parquet")
    mask.add_argument(
        "--rows",
        metavar="N,A-B,..",
        type=_row_numbers,
        help="numbers of rows, counted from 0 (the first 5; with --html the first 200)",
    )
    mask.add_argument("--html", metavar="FILE", help="write a page instead; a file of that name is replaced")
    mask.set_defaults(run=_mask)
    explain = commands.add_parser("explain", help="print the page of a check")
    explain.add_argument("check", metavar="CODE|NAME")
    explain.set_defaults(run=_explain)
    listing = commands.add_parser("checks", help="list the checks")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=_checks)
    _add_memory_command(commands)
    demo = commands.add_parser("demo", help="train a tiny Llama the usual way and the prepared way, and compare")
    demo.add_argument("--steps", type=_positive, default=None, help="training steps of each run")
    demo.set_defaults(run=lambda options: _demo(options.steps))
    return parser


def _doctor(options: argparse.Namespace) -> int:
    if options.environment:
        return _doctor_environment(options)
    if options.target is None:
        raise PadfixError(
            "Nothing is named to look at. llama-padfix doctor FOLDER, or: llama-padfix doctor --environment"
        )
    if options.unsafe and not options.fix:
        raise PadfixError("--unsafe goes with --fix OUT: a folder is never changed in place.")
    select_checks(options.select, options.ignore)  # a typing error is told before anything is loaded
    if options.fix and Path(options.fix).exists():
        raise PadfixError(f"{options.fix!r} exists already, and nothing is written over it. Name a new folder.")
    rows = open_rows(options.data) if options.data else None
    folder = fetch_folder(options.target)
    settings = {"select": options.select, "ignore": options.ignore, "max_rows": options.max_rows, "dataset": rows}
    report = diagnose(folder, progress=sys.stderr.isatty(), **settings)
    _print_report(report, options.format)
    if options.html:
        Path(options.html).write_text(report.to_html(), encoding="utf-8", errors="xmlcharrefreplace")
    if options.fix:
        chosen = {"select": options.select, "ignore": options.ignore}
        healed = heal_folder(folder, options.fix, unsafe=options.unsafe, **chosen)
        told = sys.stderr if options.format == "json" else sys.stdout
        print("", *map(plain, str(healed).splitlines()), sep="\n", file=told)
        report = healed.left if rows is None else diagnose(options.fix, **settings)
        left = [plain(finding) for finding in report.findings]
        print(f"left: {'; '.join(left) or 'nothing'}", file=told)
    return int(any(finding.severity != "note" for finding in report.findings))


def _doctor_environment(options: argparse.Namespace) -> int:
    given = ("target", "data", "html", "fix", "unsafe", "select", "ignore")
    named = [name for name in given if getattr(options, name)]
    if named:
        raise PadfixError(
            f"--environment looks at the installed versions alone, so {named[0]} has no meaning beside it. "
            "Run: llama-padfix doctor --environment"
        )
    facts = Facts(environment=observe_environment())
    report = run_checks(facts, select_checks(["PKG001"], None))
    versions = dict(facts.environment.versions) if facts.environment is not None else {}
    if options.format == "json":
        print(json.dumps({"versions": versions, **report.to_dict()}, indent=2))
    elif options.format == "github":
        print(as_github(report.to_dict()))
    else:
        width = max(map(len, versions), default=0)
        lines = [f"{name:<{width}}  {version}" for name, version in versions.items()]
        lines += [plain(finding) for finding in report.findings] or ["No combination of these is known to break."]
        print(*lines, sep="\n")
    return int(any(finding.severity != "note" for finding in report.findings))


def _mask(options: argparse.Namespace) -> int:
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
    view = view_mask(
        rows,
        tokenizer,
        row_numbers=numbers,
        model=saved_model(folder),
        title=f"{Path(options.data).name}: what is trained",
    )
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


def _print_report(report: Report, form: str) -> None:
    document = report.to_dict()
    if form == "json":
        print(report.to_json())
    elif form == "github":
        print(as_github(document))
    elif importlib.util.find_spec("rich") is None or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        print(as_text(document), summarize(document), sep="\n")
    else:
        print_rich(document)


def _explain(options: argparse.Namespace) -> int:
    wanted = options.check
    for check in load_checks():
        if wanted.upper() == check.code or wanted == check.name:
            print(page(check), end="")
            return 0
    raise PadfixError(f"No check is called {wanted!r}. `llama-padfix checks` lists them.")


def _checks(options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps([describe_check(check) for check in load_checks()], indent=2))
    else:
        for check in load_checks():
            print(f"{check.code}  {check.severity:<7}  {check.name}")
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("no code is given")
    return names


def _row_numbers(text: str) -> list[range]:
    """Return the numbers of "3", "0-9" or "3,17,40-44"."""
    parts = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise argparse.ArgumentTypeError(f"{part!r} is no row number and no range such as 0-9")
        parts.append(range(int(first), int(last if dash else first) + 1))
    return parts


def _rows(text: str) -> int | None:
    return None if text == "all" else _positive(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _add_memory_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `memory MODEL` to the parser's commands; its `run` prints the estimate and returns 0, or 1 if too large."""
    parser = commands.add_parser(
        "memory",
        help="estimate the memory of a training step, without loading the model",
        description="Exit status: 0 estimated (and it fits into --gpu), 1 it does not fit, 2 could not run. "
        "Only config.json is read.",
    )
    parser.add_argument("model", metavar="MODEL", help="a name on the hub, or a folder with config.json")
    parser.add_argument("--batch", metavar="N", type=_positive, default=1, help="rows at once (1)")
    parser.add_argument("--length", metavar="N", type=_positive, default=2048, help="tokens a row (2048)")
    parser.add_argument("--accumulation", metavar="N", type=_positive, default=1, help="batches an update (1)")
    parser.add_argument("--quantization", choices=("nf4", "int8"), help="of the frozen weights; implies --lora")
    parser.add_argument(
        "--lora", metavar="R", type=_positive, nargs="?", const=16, help="train adapters of this rank (16)"
    )
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"), help="(bf16, or what the GPU here computes)")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw_torch_fused", help="(adamw_torch_fused)")
    parser.add_argument("--attention", choices=("sdpa", "eager", "flash_attention_2"), default="sdpa", help="(sdpa)")
    parser.add_argument("--gpu", metavar="GIB", type=float, help="the GPU's memory: say what fits into it")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_estimate)


def _estimate(options: argparse.Namespace) -> int:
    rank = options.lora or (16 if options.quantization else None)
    estimate = estimate_memory(
        options.model,
        batch=options.batch,
        length=options.length,
        gradient_accumulation_steps=options.accumulation,
        quantization=options.quantization,
        lora={"r": rank, "lora_alpha": rank} if rank else None,
        precision=options.precision,
        gradient_checkpointing=not options.no_checkpointing,
        optimizer=options.optimizer,
        attention=options.attention,
    )
    advice = estimate.advise(options.gpu) if options.gpu else None
    if options.json:
        told = estimate.to_dict() | ({"advice": vars(advice)} if advice else {})
        print(json.dumps(told, indent=2))
    else:
        print(estimate)
        if advice:
            print(advice)
    return int(advice is not None and not _fits(estimate, advice.batch, advice.length))


def _fits(estimate: MemoryEstimate, batch: int, length: int) -> bool:
    return estimate.plan.batch <= batch and estimate.plan.length <= length


def _demo(steps: int | None) -> int:
    missing = [name for name in ("torch", "accelerate", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        raise PadfixError(f"The demo needs {', '.join(missing)}. Run: pip install 'llama-padfix[demo]'")
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: the demo asks nobody for anything
    from llama_padfix.demo.run import STEPS, format_table, run_demo

    usual, prepared = run_demo(steps or STEPS, announce=print)
    _print_table(format_table(usual, prepared))
    return 0


def _print_table(rows: Sequence[tuple[str, str, str]]) -> None:
    header = ("", "usual script", "with prepare()")
    if importlib.util.find_spec("rich") is None or not sys.stdout.isatty():
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(3)]
        for row in (header, *rows):
            print(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, title="The same model, the same conversations")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
