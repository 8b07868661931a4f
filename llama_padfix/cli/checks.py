"""`llama-padfix checks`: list the checks."""

from __future__ import annotations

import argparse
import json

from llama_padfix.cli.arguments import Commands, add_command
from llama_padfix.doctor.check_pages import describe_check
from llama_padfix.doctor.runner import load_checks


def add_parser(commands: Commands) -> None:
    """Add the subcommand."""
    parser = add_command(commands, "checks", help="list the checks", examples=("checks", "checks --json"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the list; return the exit status."""
    if options.json:
        print(json.dumps([describe_check(check) for check in load_checks()], indent=2))
    else:
        for check in load_checks():
            print(f"{check.code}  {check.severity:<7}  {check.name}")
    return 0
