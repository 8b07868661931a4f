"""One environment for each peer, since they hold each other's dependencies at versions that exclude one another."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-bench"
PEERS = Path(__file__).parent / "peers"
CONSTRAINTS = ROOT / "constraints.txt"

# Ours stands beside TRL, whose newest release is the one in the constraints. The other lists are complete, so that
# nothing is resolved and no other build of torch is pulled in.
ENVIRONMENTS: dict[str, list[str]] = {
    "ours": ["--constraint", str(CONSTRAINTS), "--editable", f"{ROOT}[train,demo]", "fastokens==0.3.5"],
    "unsloth": ["--no-deps", "--requirement", str(ROOT / "tests" / "unsloth" / "requirements.txt")],
    "llamafactory": ["--no-deps", "--requirement", str(PEERS / "llamafactory.txt")],
    "torchtune": ["--no-deps", "--requirement", str(PEERS / "torchtune.txt")],
    "axolotl": ["--no-deps", "--requirement", str(PEERS / "axolotl.txt")],
}


def make_environment(name: str) -> str | None:
    """Make the environment unless it is there as it should be; return what pip said where it failed."""
    python, stamp = find_python(name), FOLDER / name / "installed"
    wanted = _describe(name)
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    started = time.monotonic()
    print(f"installing the environment {name}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER / name)], check=True)
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *ENVIRONMENTS[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr[-1500:]
    stamp.write_text(wanted)
    print(f"installed {name} in {time.monotonic() - started:.0f} s", flush=True)
    return None


def find_python(name: str) -> Path:
    """Return the environment's interpreter."""
    return FOLDER / name / "bin" / "python"


def _describe(name: str) -> str:
    """Return a hash of all that decides what is installed."""
    parts = [sys.version, *ENVIRONMENTS[name]]
    parts += [Path(part).read_text() for part in ENVIRONMENTS[name] if part.endswith(".txt")]
    if name == "ours":
        parts.append((ROOT / "pyproject.toml").read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
