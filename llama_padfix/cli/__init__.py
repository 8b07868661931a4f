"""The command `llama-padfix`: one file a subcommand, each with `add_parser(commands)` and `run(options)`.

`doctor` (with `environment` and `config`), `serving`, `mask`, `explain`, `checks`, `memory`, `demo`; what they share
is in `arguments`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from llama_padfix import PadfixError, __version__
from llama_padfix.core.text import printable

_SUBCOMMANDS = ("doctor", "serving", "mask", "explain", "checks", "memory", "demo")


def __getattr__(name: str) -> ModuleType:
    """Import a subcommand when it is asked for: one command needs none of the others."""
    if name not in _SUBCOMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the command's name; None for `sys.argv`.

    Returns:
        The exit status: 0 done and clean, 1 findings, 2 could not run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # characters that an ASCII terminal cannot print
    parser = argparse.ArgumentParser(
        prog="llama-padfix", description="Find and fix what makes the fine-tuning of chat models go wrong."
    )
    parser.add_argument("--version", action="version", version=f"llama-padfix {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    given = sys.argv[1:] if arguments is None else arguments
    asked = [name for name in _SUBCOMMANDS if [name] == list(given[:1])]
    for name in asked or _SUBCOMMANDS:
        __getattr__(name).add_parser(commands)
    if any("\0" in argument for argument in arguments or ()):
        parser.error("an argument holds a NUL character, which no file's name can")
    options = parser.parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except PadfixError as error:
        print(f"llama-padfix: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:  # a name that is too long, a folder in place of a file, no permission
        print(f"llama-padfix: {printable(error)}. Name a file or folder that can be read or written.", file=sys.stderr)
    except Exception as error:  # Python's own exit status, 1, would mean findings
        print(f"llama-padfix: {type(error).__name__}: {printable(error)}", file=sys.stderr)
        print("This is a fault of llama-padfix or of the files; please report it.", file=sys.stderr)
    return 2
