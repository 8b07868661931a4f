"""`llama-padfix demo`: train a tiny Llama twice, and compare."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

from llama_padfix import PadfixError
from llama_padfix.cli.arguments import Commands, add_command, positive

_NEEDED = ("torch", "accelerate", "datasets", "llama_models", "tiktoken")  # what the extra `demo` installs


def add_parser(commands: Commands) -> None:
    """Add the subcommand."""
    text = "train a tiny Llama the usual way and the prepared way, and compare"
    parser = add_command(commands, "demo", help=text, examples=("demo", "demo --steps 20"))
    parser.add_argument("--steps", type=positive, default=None, help="updates of each run (110)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train both models and print the table; return the exit status."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise PadfixError(f'The demo needs {", ".join(missing)}. Run: pip install "llama-padfix[demo]"')
    if options.steps is None:
        print("This takes about 70 seconds on 2 CPU cores, and needs no network.", flush=True)
    os.environ["HF_HUB_OFFLINE"] = "1"  # set before transformers is imported: the demo needs no network
    from llama_padfix.demo.run import STEPS, format_table, run_demo

    usual, prepared = run_demo(options.steps or STEPS, announce=print)
    _print_table(format_table(usual, prepared))
    words = [run.stopped_in_llama_cpp for run in (usual, prepared) if isinstance(run.stopped_in_llama_cpp, str)]
    if words:
        print(f"The same prompts in llama.cpp are left out. To run them: {words[0]}")
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
