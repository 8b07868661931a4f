"""The command `llama-padfix`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

from llama_padfix import __version__
from llama_padfix.records import PadfixError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (0 done, 2 could not run)."""
    parser = argparse.ArgumentParser(prog="llama-padfix", description="Make chat models fine-tune right.")
    parser.add_argument("--version", action="version", version=f"llama-padfix {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="train a tiny Llama the usual way and the prepared way, and compare")
    demo.add_argument("--steps", type=_positive, default=None, help="training steps of each run")
    options = parser.parse_args(arguments)
    try:
        return _demo(options.steps)
    except PadfixError as error:
        print(f"llama-padfix: {error}", file=sys.stderr)
        return 2


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _demo(steps: int | None) -> int:
    missing = [name for name in ("torch", "accelerate", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        raise PadfixError(f"The demo needs {', '.join(missing)}. Run: pip install 'llama-padfix[demo]'")
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: the demo asks nobody for anything
    from llama_padfix.demo import STEPS, format_table, run_demo

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
