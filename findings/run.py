"""Run the scripts of this folder, one after another, and say which no longer hold: make findings, or

    python findings/run.py [PATTERN ...]

A pattern is of names, such as 'trl_*'; all scripts by default. Each script makes a temporary folder and installs
pinned packages, so a package registry is needed, and it takes a while. Exits with 1 when a script saw something else
than it says.
"""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
HOLDS, CHANGED, NOT_RUN = "holds", "changed", "could not run"


def run_script(path: Path) -> tuple[str, str]:
    """Run a script; return what became of it, and its last lines where it does not hold.

    A script that sees something else ends with an assertion that says "changed". Any other failure, such as a package
    that cannot be installed, tells nothing about the finding.
    """
    done = subprocess.run(["bash", str(path)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    said = (done.stdout + done.stderr).rstrip()
    if done.returncode == 0:
        return HOLDS, ""
    last = said.splitlines()[-5:]
    return CHANGED if any("changed" in line for line in last) else NOT_RUN, "\n".join(last)


def main(patterns: Sequence[str], folder: Path = FOLDER) -> int:
    """Run the scripts of some patterns, print a line for each, and return the exit status."""
    names = [
        path for path in sorted(folder.glob("*.sh")) if any(fnmatch.fnmatch(path.stem, each) for each in patterns)
    ]
    outcomes = []
    for path in names:
        outcome, last = run_script(path)
        outcomes.append(outcome)
        print(f"{path.name}: {outcome}", *[f"    {line}" for line in last.splitlines()], sep="\n", flush=True)
    print(", ".join(f"{outcomes.count(each)} {each}" for each in (HOLDS, CHANGED, NOT_RUN)))
    return int(CHANGED in outcomes or not names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="names of scripts, such as 'trl_*'")
    sys.exit(main(parser.parse_args().patterns))
