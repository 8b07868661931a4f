"""The pages of the checks say what the catalog says, and the first page finds them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_padfix.doctor.check_pages import index_page, page
from llama_padfix.doctor.runner import load_checks
from llama_padfix.serving import faults

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "generate.py"


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_the_docs_are_not_stale() -> None:
    result = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_what_is_stale_is_found_and_written(copy: Path) -> None:
    generate = generator()
    checks = (*load_checks(), *load_checks(faults))
    assert generate.main(["--check"], copy) == 1
    assert not (copy / "docs" / "checks").exists(), "--check writes nothing"
    assert generate.main([], copy) == 0
    assert generate.main(["--check"], copy) == 0
    pages = sorted(path.name for path in (copy / "docs" / "checks").iterdir())
    assert pages == sorted([*(f"{check.code}.md" for check in checks), "README.md"])
    (copy / "docs" / "checks" / "PAD001.md").write_text("changed by hand")
    (copy / "docs" / "checks" / "OLD001.md").write_text("its check is gone")
    assert generate.stale_files(copy) == ["docs/checks/OLD001.md", "docs/checks/PAD001.md"]
    assert generate.main([], copy) == 0
    assert generate.stale_files(copy) == []


def test_a_page_has_each_part_of_its_check() -> None:
    for check in (*load_checks(), *load_checks(faults)):
        text = page(check)
        parts = (check.code, check.name, check.severity, *check.needs, check.explanation.strip(), check.bad.strip())
        assert all(part in text for part in (*parts, check.good.strip()))


def test_the_index_lists_each_check_once() -> None:
    text = index_page(load_checks())
    assert [text.count(f"[{check.code}]") for check in load_checks()] == [1] * len(load_checks())
