"""The benchmark against other libraries: `make bench` (see docs/performance.md).

    python benchmarks/throughput/run.py [--rows N] [--rounds N] [--write] [--only NAME ...]

Every figure comes from a process of its own; a round runs each script once, every second round in reverse order, and
medians are taken over the rounds. All goes to out/bench: results.json with every raw figure, table.md, and logs.
`--write` puts the table into docs/performance.md as well. Needs the standard library alone: so the scripts' processes
start small, and whatever they need lies in .venv-bench.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parent.parent / "matrix"))

import environments
import report
import tables

HERE = Path(__file__).parent
OUT = environments.ROOT / "out" / "bench"
PAGE = environments.ROOT / "docs" / "performance.md"
REFERENCE = "ours tokenizers"  # what the peers' rows are compared with
SMALL, LARGE = 0.1, 5.0  # of --rows: 2,000 and 100,000 of 20,000

# One core each, so that CPU seconds are those of the work and not of threads that wait for one another.
SWITCHES = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
SWITCHES |= {"UNSLOTH_DATASET_NUM_PROC": "0"}  # in its own process
SWITCHES |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class Run:
    """A script in an environment; `share` is the part of --rows it gets, `once` keeps it out of the later rounds."""

    name: str
    environment: str
    script: str
    arguments: tuple[str, ...] = ()
    share: float = 1.0
    once: bool = False
    keep: bool = False
    tokenizer: str = "llama3"


FROM = ("--rows-from", str(OUT / "rows" / REFERENCE))
FAST, PLAIN, CACHED, AUTO = (("--engine", name) for name in ("fastokens", "tokenizers", "cached", "auto"))
STREAM = ("--way", "dataset")
RUNS = (
    Run(REFERENCE, "ours", "ours.py", PLAIN, keep=True),
    Run("ours cached", "ours", "ours.py", CACHED, keep=True),
    Run("ours fastokens", "ours", "ours.py", FAST, keep=True),
    Run("TRL", "ours", "peers/trl_sft.py", keep=True),
    Run("Unsloth", "unsloth", "peers/unsloth_sft.py", keep=True),
    Run("LLaMA-Factory", "llamafactory", "peers/llamafactory_sft.py", keep=True),
    Run("torchtune", "torchtune", "peers/torchtune_sft.py", keep=True),
    Run("apply_chat_template", "ours", "peers/apply_template.py", keep=True),
    Run("bare tokenizers", "ours", "peers/bare_engine.py", PLAIN, keep=True),
    Run("bare fastokens", "ours", "peers/bare_engine.py", FAST, keep=True),
    Run("labels ours", "ours", "labels_ours.py", FROM),
    Run("labels Unsloth", "unsloth", "peers/unsloth_labels.py", FROM),
    Run("cold ours", "ours", "ours.py", (*AUTO, "--warm", "no"), SMALL),
    Run("cold TRL", "ours", "peers/trl_sft.py", (), SMALL),
    Run("stream small", "ours", "ours.py", (*FAST, *STREAM), SMALL),
    Run("stream", "ours", "ours.py", (*FAST, *STREAM)),
    Run("stream large", "ours", "ours.py", (*FAST, *STREAM), LARGE),
    Run("startup", "ours", "startup.py"),
    Run("steps", "ours", "steps.py"),
    Run("Axolotl", "axolotl", "peers/axolotl_sft.py", keep=True, once=True),
    Run("TRL, max_length=None", "ours", "peers/trl_sft.py", ("--max-length", "none"), once=True),
    Run("stream auto small", "ours", "ours.py", (*AUTO, *STREAM, "--warm", "no"), SMALL, once=True),
    Run("stream auto large", "ours", "ours.py", (*AUTO, *STREAM, "--warm", "no"), LARGE, once=True),
    Run("stream cached small", "ours", "ours.py", (*CACHED, *STREAM), SMALL, once=True),
    Run("stream cached large", "ours", "ours.py", (*CACHED, *STREAM), LARGE, once=True),
    Run("ours fastokens, Llama 3.1's template", "ours", "ours.py", FAST, once=True, tokenizer="llama3_1"),
)


def start(command: list[str], log: Path, work: Path, told: TextIO | None = None) -> int:
    """Run a command with all caches in `work`; return its exit code. What it prints goes to the log, or to `told`."""
    caches = {"HF_HOME": str(work / "hf"), "XDG_CACHE_HOME": str(OUT / "cache"), "TMPDIR": str(work / "tmp")}
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as said:  # in `work`, since Unsloth writes what it compiles where it runs
        environment = {**os.environ, **SWITCHES, **caches}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles all but an editable package
        return subprocess.call(command, cwd=work, env=environment, stdout=told or said, stderr=said)


def run(one: Run, rows: int, first: bool) -> dict[str, Any]:
    """Run a script on its data and return its report; {"error": ...} where it fails."""
    work, report, log = OUT / "work", OUT / "report.json", OUT / "logs" / f"{one.name}.log"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    report.unlink(missing_ok=True)
    # datasets writes its caches beside a file: here, and not beside the data.
    (work / "conversations.arrow").symlink_to(data_file(round(rows * one.share)))
    command = [str(environments.find_python(one.environment)), str(HERE / one.script)]
    command += ["--data", str(work / "conversations.arrow"), "--tokenizer", str(OUT / "tokenizers" / one.tokenizer)]
    command += ["--work", str(work), "--out", str(report), *one.arguments]
    if one.keep and first:
        command += ["--rows-to", str(OUT / "rows" / one.name)]
    code = start(command, log, work)
    shutil.rmtree(work, ignore_errors=True)
    if code or not report.exists():
        return {"error": f"exit {code}: " + "; ".join(log.read_text(errors="replace").splitlines()[-3:])}
    return dict(json.loads(report.read_text(encoding="utf-8")))


def run_collate() -> dict[str, Any]:
    """Run benchmarks/collate.py, which compares the collators by itself; {"error": ...} where it fails."""
    log, work, said = OUT / "logs" / "collate.log", OUT / "work", OUT / "collate.json"
    script = environments.ROOT / "benchmarks" / "collate.py"
    with said.open("w", encoding="utf-8") as told:
        code = start([str(environments.find_python("ours")), str(script), "--json"], log, work, told)
    shutil.rmtree(work, ignore_errors=True)
    if code:
        return {"error": f"exit {code}: " + "; ".join(log.read_text(errors="replace").splitlines()[-3:])}
    return dict(json.loads(said.read_text(encoding="utf-8")))


def run_workloads(rows: int, rounds: int) -> list[dict[str, Any]]:
    """Run benchmarks/workloads.py, which measures by itself; [] where it gave nothing."""
    said, log = OUT / "workloads.json", OUT / "logs" / "workloads.log"
    said.unlink(missing_ok=True)
    script = environments.ROOT / "benchmarks" / "workloads.py"
    command = [str(environments.find_python("ours")), str(script), "--json", str(said)]
    command += ["--rows", str(max(round(rows * SMALL), 20)), "--rounds", str(rounds)]
    with log.open("w", encoding="utf-8") as told:
        subprocess.call(command, cwd=environments.ROOT, stdout=told, stderr=told)
    return list(json.loads(said.read_text(encoding="utf-8"))) if said.exists() else []


def data_file(rows: int) -> Path:
    """Return the file that holds so many conversations."""
    return OUT / "data" / f"conversations-{rows}.arrow"


def make_inputs(rows: int) -> None:
    """Make the conversations and the tokenizers that are not there yet."""
    python = str(environments.find_python("ours"))
    for share in (SMALL, 1.0, LARGE):
        file = data_file(round(rows * share))
        if not file.exists():
            subprocess.run([python, str(HERE / "data.py"), str(round(rows * share)), str(file)], check=True)
    if not (OUT / "tokenizers" / "tokenizer.model").exists():
        subprocess.run([python, str(HERE / "prepare.py"), str(OUT / "tokenizers")], check=True)


def name_machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    names = []
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def write_results(results: dict[str, Any], write: bool) -> None:
    """Write results.json and table.md, and the page where that is asked for."""
    (OUT / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    text = tables.write_page(results)
    (OUT / "table.md").write_text(text, encoding="utf-8")
    if write:
        PAGE.write_text(tables.replace_block(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
        if results["workloads"]:
            PAGE.with_suffix(".svg").write_text(report.draw_picture(results["workloads"]), encoding="utf-8")


def main() -> int:
    """Run it all; 1 where a script of our own failed, for a peer that cannot be installed only lacks its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"some of: {', '.join(one.name for one in RUNS)}")
    options = parser.parse_args()
    chosen = [one for one in RUNS if not options.only or one.name in options.only]
    for folder in ("logs", "rows", "cache"):
        shutil.rmtree(OUT / folder, ignore_errors=True)
    (OUT / "logs").mkdir(parents=True)
    results: dict[str, Any] = {
        "rows": options.rows,
        "machine": name_machine(),
        "runs": {},
        "collate": [],
        "workloads": [],
        "failed": {},
    }
    for name in dict.fromkeys(["ours", *(one.environment for one in chosen)]):
        if (said := environments.make_environment(name)) is not None:
            results["failed"][name] = said
            print(f"{name} cannot be installed: {said}", flush=True)
    if "ours" in results["failed"]:
        return 1
    chosen = [one for one in chosen if one.environment not in results["failed"]]
    make_inputs(options.rows)
    for number in range(options.rounds):
        due = [one for one in chosen if number == 0 or not one.once]
        for one in reversed(due) if number % 2 else due:
            started = time.monotonic()
            told = run(one, options.rows, first=number == 0)
            results["runs"].setdefault(one.name, []).append(told)
            said = told.get("error") or f"CPU {told['cpu']:.3f} s"
            print(f"round {number + 1}: {one.name}: {said} ({time.monotonic() - started:.0f} s in all)", flush=True)
        if not options.only:
            results["collate"].append(run_collate())
        if number == 0:
            command = [str(environments.find_python("ours")), str(HERE / "compare.py"), str(OUT / "rows"), REFERENCE]
            if (OUT / "rows" / REFERENCE).exists():
                results["compared"] = json.loads(subprocess.check_output(command))
        is_last = number + 1 == options.rounds
        if is_last and not options.only:
            results["workloads"] = run_workloads(options.rows, options.rounds)
        write_results(results, options.write and is_last)
    print((OUT / "table.md").read_text(encoding="utf-8"))
    ours = [told for one in chosen if one.environment == "ours" for told in results["runs"][one.name]]
    return int(any("error" in told for told in ours))


if __name__ == "__main__":
    sys.exit(main())
