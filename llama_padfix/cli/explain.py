"""`llama-padfix explain`: print the page of a check."""

from __future__ import annotations

import argparse

from llama_padfix import PadfixError
from llama_padfix.cli.arguments import Commands, add_command
from llama_padfix.doctor.check_pages import page
from llama_padfix.doctor.runner import load_checks
from llama_padfix.serving import faults


def add_parser(commands: Commands) -> None:
    """Add the subcommand."""
    examples = ("explain PAD002", "explain double-bos")
    parser = add_command(commands, "explain", help="print the page of a check", examples=examples)
    parser.add_argument("check", metavar="CODE|NAME", help="a code such as PAD002, or its name")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the page; return the exit status."""
    for check in (*load_checks(), *load_checks(faults)):
        if options.check.upper() == check.code or options.check == check.name:
            print(page(check), end="")
            return 0
    raise PadfixError(f"No check is called {options.check!r}. `llama-padfix checks` lists them.")
