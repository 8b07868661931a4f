"""Runs the code blocks of a Markdown page as a reader would: one after another, in one session.

`python` is run, and `diff` as the file is after it. `text` is what the block before it prints, `...` for what is left
out. `console` holds commands after `$ `, each followed by what it prints. `sh` holds commands that are only read.
Blocks of any other language are not run; `tests/test_code_blocks.py` lists them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llama_padfix import cli
from llama_padfix.cli import main

RUN = {"python", "diff", "text", "console"}
_FENCE = re.compile(r"^```([\w+-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block."""

    language: str
    text: str
    line: int


def find_blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for fence in _FENCE.finditer(page):
        yield Block(fence[1], fence[2], page.count("\n", 0, fence.start()) + 1)


def run_page(path: Path, names: dict[str, Any] | None = None, left_out: Collection[str] = ()) -> int:
    """Run the blocks of a page in the working directory; return how many ran. Raises what a block raises.

    A block that begins with a line of `left_out` is compiled only.
    """
    names = {"__name__": "__page__"} if names is None else names
    printed, ran = "", 0
    for block in find_blocks(path.read_text(encoding="utf-8")):
        if block.language not in RUN:
            continue
        ran += 1
        place = f"{path.name}:{block.line}"
        if block.language == "text":
            require_lines(block.text, printed, place)
        elif block.language == "console":
            run_commands(block.text, place)
        else:
            code = block.text if block.language == "python" else take_new_side(block.text)
            # As many lines down as in the page, so that a traceback names the page's line.
            compiled = compile("\n" * block.line + code, path, "exec")
            if code.partition("\n")[0] not in left_out:
                printed = capture(lambda compiled=compiled: exec(compiled, names))
    return ran


def run_commands(text: str, place: str) -> None:
    """Run the commands of a console block, and require what stands after each; `# exit status 1` is required too."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        command, _, remark = command.partition("  # exit status ")
        program, *arguments = shlex.split(command)
        assert program == "llama-padfix", f"{place}: {program} is not run here"
        statuses: list[int] = []
        printed = capture(lambda arguments=arguments, statuses=statuses: statuses.append(main(arguments)))
        assert statuses == [int(remark or 0)], f"{place}: {command}: exit status {statuses}\n{printed}"
        require_lines(expected, printed, place)


def read_commands(text: str) -> Iterator[list[str]]:
    """Yield each command of a `sh` block as its words, without the remark behind it."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def parse_command(words: Sequence[str]) -> None:
    """Have the command line read a command without running it. Raises SystemExit for what it does not know."""
    parser = argparse.ArgumentParser(prog=words[0])
    commands = parser.add_subparsers(required=True)
    for name in cli._SUBCOMMANDS:
        getattr(cli, name).add_parser(commands)
    parser.parse_args(words[1:])


def capture(work: Any) -> str:
    """Return what a call prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        work()
    return out.getvalue()


def require_lines(expected: str, printed: str, place: str) -> None:
    """Require each expected line in the order of the page; `...` stands for lines that are left out."""
    lines, at = [line.rstrip() for line in printed.splitlines()], 0
    gap = True
    for wanted in filter(None, map(str.rstrip, expected.splitlines())):
        if wanted == "...":
            gap = True
            continue
        pattern = re.compile(".*".join(map(re.escape, wanted.split("..."))))
        found = [n for n in range(at, len(lines)) if pattern.fullmatch(lines[n])][:1]
        following = next((n for n in range(at, len(lines)) if lines[n]), None)
        assert found and (gap or found == [following]), f"{place}: not printed there: {wanted!r}\n{printed}"
        at, gap = found[0] + 1, False


def take_new_side(diff: str) -> str:
    """Return the file after a diff."""
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if not line.startswith("-"))
