"""The scripts of findings/ have the form that its README names, and what runs them tells outcomes apart."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
INDEX = (FOLDER / "README.md").read_text(encoding="utf-8")


def load_runner() -> Any:
    spec = importlib.util.spec_from_file_location("run_findings", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_it_shows_and_pins_what_it_installs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"| `{path.name}` |" in INDEX
    for part in ("# Valid input:", "# One expects:", "# What happens:", "set -euo pipefail", "mktemp -d", "changed"):
        assert part in text, part
    assert re.search(r"(pip|npm) install .*(==|@)\d", text), "a version is pinned"
    assert "llama_padfix" not in text, "it runs without this package"


def test_the_index_names_no_script_that_is_gone() -> None:
    assert sorted(re.findall(r"^\| `(\S+\.sh)` \|", INDEX, re.MULTILINE)) == [path.name for path in SCRIPTS]


def test_what_holds_what_changed_and_what_could_not_run(tmp_path: Path, capsys: Any) -> None:
    run = load_runner()
    (tmp_path / "a_holds.sh").write_text("echo fine; cat\n")
    (tmp_path / "b_changed.sh").write_text("echo seen; python3 -c 'assert 1 == 2, \"changed\"'\n")
    (tmp_path / "c_fails.sh").write_text("echo no such package >&2; exit 1\n")
    assert run.main(["*"], tmp_path) == 1
    printed = capsys.readouterr().out
    assert re.findall(r"^(\w+\.sh: .*)$", printed, re.MULTILINE) == [
        "a_holds.sh: holds",
        "b_changed.sh: changed",
        "c_fails.sh: could not run",
    ]
    assert "    no such package" in printed and printed.endswith("1 holds, 1 changed, 1 could not run\n")
    assert run.main(["a_*", "c_*"], tmp_path) == 0
    assert run.main(["none"], tmp_path) == 1
