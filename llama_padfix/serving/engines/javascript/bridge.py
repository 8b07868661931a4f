"""One node process that answers lines of JSON: npm packages that are installed already, and no network."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama_padfix.serving.engines.engine import EngineMissingError

FOLDER_VARIABLE = "LLAMA_PADFIX_NODE_MODULES"
"""Names a folder with `node_modules`, or one that is it."""

_SCRIPT = Path(__file__).with_name("bridge.mjs")
# No text becomes code, and a template that fills the memory ends its own process.
_FLAGS = ("--disallow-code-generation-from-strings", "--max-old-space-size=2048")


class BridgeError(Exception):
    """What the process answered in place of a value, or that it ended."""


class NodeBridge:
    """A node process; it starts with the first question and again after one that it did not survive."""

    def __init__(self, node: str, folder: Path, *, seconds: float = 20.0) -> None:
        self._command = [node, *_FLAGS, str(_SCRIPT), str(folder)]
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._starts = 0

    def ask(self, question: str, **arguments: object) -> Any:  # whatever JSON holds
        """Return the answer to one question.

        Raises:
            BridgeError: the process answered with an error, ended, or took too long.
        """
        self.start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None  # they are pipes
        timer = threading.Timer(self.seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps({"ask": question, **arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self.close()
            raise BridgeError(f"the node process ended, or needed more than {self.seconds:g} s")
        answer = json.loads(line)
        if "error" in answer:
            raise BridgeError(str(answer["error"]))
        return answer.get("value")

    def start(self) -> int:
        """Start the process where none runs; return how many were: what an earlier one was told is gone."""
        if self._process is None:
            kept = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                env=kept,
            )
            self._starts += 1
        return self._starts

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not written yet
                    if pipe is not None:
                        pipe.close()
            process.wait()


def open_bridge(packages: Sequence[str], never_in: Path, *, seconds: float = 20.0) -> NodeBridge:
    """Return a bridge to npm packages, each written as "name@version" of the version to install.

    They are looked for in the folder that `LLAMA_PADFIX_NODE_MODULES` names, in those of `NODE_PATH`, and here.

    Args:
        packages: The packages, all of them in one folder.
        never_in: A folder of a stranger, from which nothing is run.
        seconds: How long an answer may take.

    Raises:
        EngineMissingError: node or a package is not there; the message is the line that installs them.
    """
    node = shutil.which("node")
    if node is None:
        raise EngineMissingError(f"install node (https://nodejs.org), then: npm install {' '.join(packages)}")
    names = [package.rpartition("@")[0] for package in packages]
    for folder in _folders():
        is_strange = never_in.resolve() in (folder.resolve(), *folder.resolve().parents)
        if not is_strange and all((folder / "node_modules" / name / "package.json").is_file() for name in names):
            return NodeBridge(node, folder.resolve(), seconds=seconds)
    raise EngineMissingError(
        f"npm install {' '.join(packages)}  # here, or in a folder that {FOLDER_VARIABLE} or NODE_PATH names"
    )


def _folders() -> Iterator[Path]:
    """Yield the folders that may hold `node_modules`."""
    named = [os.environ.get(FOLDER_VARIABLE, ""), *os.environ.get("NODE_PATH", "").split(os.pathsep)]
    for folder in (*map(Path, filter(None, named)), Path.cwd()):
        yield folder.parent if folder.name == "node_modules" else folder
