"""Run the core of the suite on every supported set of versions, and print what passed.

    python tests/matrix/run.py [SET ...] [--keep FOLDER]

Each set gets an environment of its own, which is thrown away afterwards (unless FOLDER keeps it for another run).
Exits with 1 when a set fails or cannot be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE: tuple[str, ...] = (
    "demo/test_reference.py",
    "doctor/test_patch.py",
    "doctor/test_diagnose.py",
    "doctor/test_checks.py",
    "doctor/test_observe_tokenizer.py",
    "tokens/test_bos.py",
    "encoding/test_collator.py",
    "encoding/test_completion_collator.py",
    "encoding/test_control_tokens_in_rows.py",
    "encoding/test_counts.py",
    "encoding/test_dataset.py",
    "encoding/test_encoder.py",
    "encoding/test_encoder_in_datasets.py",
    "encoding/test_labels.py",
    "encoding/test_loss_selection.py",
    "encoding/test_pairs.py",
    "encoding/test_row_losses.py",
    "training/test_packing.py",
    "training/test_pictures.py",
    "training/test_preferences.py",
    "training/test_prepare.py",
    "training/test_task_pages.py",
    "training/test_trainer.py",
    "training/test_training_runs.py",
    "training/test_loading.py",
    "training/test_lora.py",
    "training/test_generation.py",
    "serving/test_check_stops.py",
    "core/test_compat.py",
    "test_import.py",
)
TOOLS: tuple[str, ...] = (
    "torch==2.13.0",
    "pytest==9.2.0",
    "pytest-xdist==3.8.0",
    "hypothesis==6.170.15",
    "llama_models==0.3.0",
    "pillow==13.0.0",
)
TOOLS += ("tiktoken==0.14.0", "rich==15.0.0")

_SWITCHES = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_MAKE_MODEL = """
from llama_padfix.demo.reference import build_tokenizer, make_tiny_llama
make_tiny_llama(hidden_size=16).save_pretrained("model")
build_tokenizer("3.1-instruct").save_pretrained("model")
"""

# Both ends of the supported range and the turning points between; `make test` runs the whole suite on the newest.
SETS: dict[str, dict[str, str]] = {
    "4.43": {
        "transformers": "4.43.4",
        "trl": "0.9.6",
        "peft": "0.12.0",
        "accelerate": "0.33.0",
        "datasets": "2.20.0",
        "numpy": "1.26.4",
        "pyarrow": "19.0.1",  # datasets 2.20 uses what pyarrow 20 took away
    },
    "4.46": {
        "transformers": "4.46.3",
        "trl": "0.12.2",
        "peft": "0.13.2",
        "accelerate": "1.1.1",
        "datasets": "3.1.0",
    },
    "4.49": {
        "transformers": "4.49.0",
        "trl": "0.15.2",
        "peft": "0.14.0",
        "accelerate": "1.4.0",
        "datasets": "3.3.2",
    },
    "4.55": {
        "transformers": "4.55.4",
        "trl": "0.22.2",
        "peft": "0.17.1",
        "accelerate": "1.10.1",
        "datasets": "4.0.0",
    },
    "4.57": {
        "transformers": "4.57.6",
        "trl": "0.24.0",
        "peft": "0.17.1",
        "accelerate": "1.11.0",
        "datasets": "4.3.0",
    },
    "5.0": {
        "transformers": "5.0.0",
        "trl": "0.27.2",
        "peft": "0.18.1",
        "accelerate": "1.12.0",
        "datasets": "4.5.0",
    },
    "5.3": {
        "transformers": "5.3.0",
        "trl": "1.0.0",
        "peft": "0.18.1",
        "accelerate": "1.13.0",
        "datasets": "4.7.0",
    },
    "5.23": {
        "transformers": "5.23.0",
        "trl": "1.16.0",
        "peft": "0.21.2",
        "accelerate": "1.15.0",
        "datasets": "5.2.0",
    },
}


@dataclass(frozen=True)
class Outcome:
    """What became of a set: the counts that pytest printed, the seconds it took, and the last lines it said."""

    name: str
    versions: dict[str, str]
    passed: int
    failed: int
    skipped: int
    seconds: float
    said: str

    @property
    def green(self) -> bool:
        """Whether tests ran and none failed."""
        return self.passed > 0 and self.failed == 0


def run_set(name: str, versions: dict[str, str], folder: Path) -> Outcome:
    """Install a set into `folder` (unless it is there already) and run the core of the suite with it."""
    started = time.monotonic()
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        said = _install(python, folder, versions)
        if said is not None:
            return Outcome(name, versions, 0, 1, 0, time.monotonic() - started, said)
        (folder / "installed").touch()
    files = [f"tests/{name}" for name in CORE]
    command = [
        str(python),
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--tb=line",
    ]
    environment = {**os.environ, **_SWITCHES, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *files], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    failed = counts.get("failed", 0) + counts.get("error", 0) or int(done.returncode != 0)
    said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
    wrong = _use_downstream(python, folder)
    if wrong is not None:
        failed, said = failed + 1, f"{said}\nThe downstream project: {wrong}"
    seconds = time.monotonic() - started
    return Outcome(name, versions, counts.get("passed", 0), failed, counts.get("skipped", 0), seconds, said)


def _use_downstream(python: Path, folder: Path) -> str | None:
    """Install the wheel and a project that depends on it, and train with that; return what went wrong."""
    environment = {**os.environ, **_SWITCHES}
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory(prefix="downstream-") as place:
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        install = [*pip, "install", "--quiet", "--no-deps", "--force-reinstall", "--no-index", "--find-links", place]
        steps = [
            [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", place, str(ROOT), str(ROOT / "tests/downstream")],
            [*install, "llama-padfix", "downstream-recipe"],
            [str(python), "-c", _MAKE_MODEL],
            [str(folder / "bin" / "downstream-train"), "model", str(ROOT / "examples/data/chats.jsonl"), "out"],
        ]
        for step in steps:
            done = subprocess.run(step, cwd=place, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                return (done.stdout + done.stderr)[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    sound = told["steps"] == 2 and 0 < told["loss"] < 20 and told["pad_token"] == "<|end_of_text|>"
    return None if sound and not told["errors"] else f"it printed {told}"


def _install(python: Path, folder: Path, versions: dict[str, str]) -> str | None:
    """Make the environment; return what pip said where it failed."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wanted = [*TOOLS, *(f"{package}=={version}" for package, version in versions.items())]
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr[-2000:]


def format_table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    packages = ("transformers", "trl", "peft", "accelerate", "datasets")
    lines = [f"| {' | '.join(packages)} | passed | failed | skipped |", "|" + "---|" * (len(packages) + 3)]
    for outcome in outcomes:
        cells = [outcome.versions[package] for package in packages]
        cells += [str(outcome.passed), str(outcome.failed), str(outcome.skipped)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@contextlib.contextmanager
def _place(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        yield Path(folder)


def main() -> int:
    """Run the sets that are named, all by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="SET", help=f"any of {', '.join(SETS)}; all by default")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments there for another run")
    options = parser.parse_args()
    unknown = set(options.names) - set(SETS)
    if unknown:
        parser.error(f"no set is called {', '.join(sorted(unknown))}; there are: {', '.join(SETS)}")
    outcomes = []
    for name in options.names or SETS:
        with _place(options.keep) as place:
            outcome = run_set(name, SETS[name], place / name)
        outcomes.append(outcome)
        print(f"{name}: {outcome.passed} passed, {outcome.failed} failed, {outcome.seconds:.0f} s", flush=True)
        if not outcome.green:
            print(outcome.said, flush=True)
    print(format_table(outcomes))
    return int(not all(outcome.green for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
