"""Conversations to ids and labels in every shape of rows, every family and engine, beside TRL and apply_chat_template.

    python benchmarks/workloads.py [--only NAME ...] [--rows N] [--rounds K] [--against TREE] [--sides ours trl ...]

NAME is a workload or the start of several (`--list` prints them). Each side is a process that loads once; each round
forks it, so nothing is kept from an earlier round; sides take turns, every second round in reverse. Figures are CPU
milliseconds a row, medians over the rounds; ids and labels are compared with ours row by row. TREE is another
checkout of this repository. Run it with an interpreter that has the packages of `make test`. Data and tokenizers are
kept in out/bench.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "matrix"))

import report

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks" / "matrix"
OUT = ROOT / "out" / "bench"
UNSLOTH = ROOT / ".venv-bench" / "unsloth" / "bin" / "python"


@dataclass(frozen=True)
class Workload:
    """Rows of a shape under a family's template by an engine; `share` is the part of --rows that it gets."""

    name: str
    shape: str
    family: str = "llama3"
    engine: str = "fastokens"
    share: float = 1.0
    at_least: float | None = None
    """How many times less CPU than TRL is asked for."""
    at_most: float | None = None
    """How many CPU milliseconds a row are asked for."""


_SHAPES = ("alpaca", "prompt_text", "prompt_messages", "system_column", "name", "weight", "unused_tools")
_FAMILIES = ("llama3_1", "qwen3", "deepseek_v3", "gemma3", "mistral", "phi4", "gptoss")
WORKLOADS = (
    Workload("plain", "plain"),
    *(Workload(f"shape-{shape}", shape, at_least=30) for shape in (*_SHAPES, "sharegpt")),
    Workload("shape-text_parts", "text_parts", "gemma3", at_least=30),  # whose template joins them
    Workload("text-rendered", "text_rendered", at_least=30),
    Workload("text-plain", "text_plain", at_least=30),
    *(Workload(f"family-{family}", "plain", family, at_least=30) for family in _FAMILIES),
    Workload("tools-llama3_1", "tool_calls", "llama3_1", share=0.5, at_least=6),
    Workload("tools-qwen3", "tool_calls", "qwen3", share=0.5, at_least=6),
    Workload("tools-gptoss", "tool_calls", "gptoss", share=0.5, at_least=6),
    Workload("thoughts-qwen3", "thoughts", "qwen3", share=0.5, at_least=5),
    Workload("calls40-qwen3", "calls_40", "qwen3", share=0.02, at_most=15),
    Workload("calls100-qwen3", "calls_100", "qwen3", share=0.01, at_most=25),
    Workload("irregular", "irregular", share=0.25, at_most=0.4),
    Workload("default-plain", "plain", engine="default"),
    Workload("default-languages", "many_languages", engine="default", at_least=4),
)


class Side:
    """A process that answers tasks; it starts with its first one."""

    def __init__(self, name: str, tree: Path, log: Path, python: str = sys.executable) -> None:
        self.name = name
        self._command = [python, str(HERE / "worker.py"), "ours" if name == "against" else name]
        self._environment = {**os.environ, "PYTHONPATH": str(tree)}
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return the report of a task; {"error": ...} where it fails."""
        if self._process is None:
            pipe, environment = subprocess.PIPE, self._environment
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=pipe, stdout=pipe, stderr=log, env=environment, text=True
                )
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            return dict(json.loads(self._process.stdout.readline()))
        except (BrokenPipeError, ValueError):
            return {"error": f"the process ended; see {self._log}"}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


@contextmanager
def open_sides(against: Path | None, wanted: list[str] | None, folder: Path) -> Iterator[list[Side]]:
    """Yield the sides, ours first; Unsloth is one where its environment is installed."""
    sides = [Side(name, ROOT, folder / f"{name}.log") for name in ("ours", "trl", "template")]
    if against is not None:
        sides.insert(1, Side("against", against.resolve(), folder / "against.log"))
    if UNSLOTH.exists():
        sides.append(Side("unsloth", ROOT, folder / "unsloth.log", str(UNSLOTH)))
    sides = [side for side in sides if wanted is None or side.name in (*wanted, "ours")]
    try:
        yield sides
    finally:
        for side in sides:
            side.close()


def run(one: Workload, sides: list[Side], rows: int, rounds: int, way: str, engine: str | None) -> dict[str, Any]:
    """Measure a workload; return what each side reported in each round, and whose rows are equal to ours."""
    count = max(8, round(rows * one.share))
    file = OUT / "workloads" / f"{one.shape}-{count}.arrow"
    if one.shape == "text_rendered":
        file = file.with_stem(f"{file.stem}-{one.family}")
    file.parent.mkdir(parents=True, exist_ok=True)
    task = {"family": one.family, "shape": one.shape, "rows": count, "data": str(file)}
    task |= {"engine": engine or one.engine, "way": way}
    if not file.exists() and "error" in (made := sides[0].ask({**task, "make": True})):
        return {"workload": one.name, "error": made["error"], "sides": {}}
    told: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for side in reversed(sides) if number % 2 else sides:
                keep = {"keep": str(Path(folder, side.name))} if number == 0 else {}
                told[side.name].append(side.ask({**task, **keep}))
        compared = {side.name: compare(Path(folder, side.name), Path(folder, "ours")) for side in sides[1:]}
    asked = {"at_least": one.at_least, "at_most": one.at_most}
    return {"workload": one.name, "rows": count, "sides": told, "compared": compared, **asked}


def compare(folder: Path, ours: Path) -> dict[str, Any]:
    """Return how many rows have the ids, and the ids and the labels, of ours; {} where a side gave no rows.

    "more" counts rows that have our ids and labels, and labels of further tokens.
    """
    import numpy

    if not (folder / "ids.npy").exists() or not (ours / "ids.npy").exists():
        return {}
    found = {}
    for name, path in (("theirs", folder), ("ours", ours)):
        edges = numpy.cumsum(numpy.load(path / "lengths.npy"))[:-1]
        columns = [path / f"{column}.npy" for column in ("ids", "labels")]
        found[name] = [numpy.split(numpy.load(column), edges) if column.exists() else None for column in columns]
    (ids, labels), (our_ids, our_labels) = found["theirs"], found["ours"]
    assert ids is not None and our_ids is not None and our_labels is not None
    told: dict[str, Any] = {"rows": len(ids), "of": len(our_ids)}
    if len(ids) != len(our_ids):
        return told
    same = [numpy.array_equal(*pair) for pair in zip(ids, our_ids, strict=True)]
    told["ids"] = sum(same)
    if labels is not None:
        # TRL trains what the template writes at position 0, whose label no loss uses.
        pairs = [(row[1:], our[1:]) for row, our, equal in zip(labels, our_labels, same, strict=True) if equal]
        told["labels"] = sum(numpy.array_equal(row, our) for row, our in pairs)
        told["more"] = sum(numpy.array_equal(row[our >= 0], our[our >= 0]) for row, our in pairs) - told["labels"]
    return told


def describe(told: dict[str, Any]) -> str:
    """Return a workload's line: what each side takes, the ratio to ours, and whose rows are equal."""
    if "error" in told:
        return f"{told['workload']}: {told['error']}"
    ours, parts = report.costs(told, "ours"), []
    for side, reports in told["sides"].items():
        errors = [one["error"] for one in reports if "error" in one]
        if errors or not ours:
            parts.append(f"{side} failed: {errors[:1]}")
            continue
        taken = report.costs(told, side)
        text = f"{side} {statistics.median(taken):.3f}"
        if side != "ours":
            if (found := report.ratio(told, side)) is not None:
                text += f" = {found[0]:.2f}x ({found[1]:.2f}-{found[2]:.2f})"
            text += f" equal {_show_equal(told['compared'][side])}"
        parts.append(text)
    return f"{told['workload']:24} {told['rows']:6,} rows  " + "; ".join(parts)


def _show_equal(compared: dict[str, Any]) -> str:
    if not compared:
        return "not compared"
    if "ids" not in compared:
        return f"no: {compared['rows']} rows of {compared['of']}"
    labels = f", labels {compared['labels']}" if "labels" in compared else ", makes no labels"
    return f"ids {compared['ids']}{labels} of {compared['of']}"


def main() -> int:
    """Print a line a workload; 1 where a side of ours failed, or another checkout made other rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="TREE")
    parser.add_argument("--sides", nargs="+", metavar="SIDE", help="of: ours against trl template unsloth")
    parser.add_argument("--way", default="table", choices=("table", "rows", "dataset"), help="how ours is called")
    parser.add_argument("--engine", help="in place of each workload's own; default = without extras")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [one for one in WORKLOADS if not options.only or one.name.startswith(tuple(options.only))]
    if options.list:
        print(*(f"{one.name}: {one.shape}, {one.family}, {one.engine}" for one in chosen), sep="\n")
        return 0
    results = []
    (OUT / "logs").mkdir(parents=True, exist_ok=True)
    with open_sides(options.against, options.sides, OUT / "logs") as sides:
        for one in chosen:
            told = run(one, sides, options.rows, options.rounds, options.way, options.engine)
            results.append(told)
            print(describe(told), flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return int(any(failed(told) for told in results))


def failed(told: dict[str, Any]) -> bool:
    """Whether a side of ours failed, or another checkout made other rows."""
    if "error" in told or any("error" in one for side in ("ours", "against") for one in told["sides"].get(side, ())):
        return True
    other = told["compared"].get("against", {"labels": 0, "of": 0})
    return bool(other.get("labels") != other["of"])


if __name__ == "__main__":
    sys.exit(main())
