"""What the package imports is what pyproject.toml declares, and without any extra it does what it says."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llama_padfix

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).parents[1]
SOURCE = Path(llama_padfix.__file__).parent
PROJECT: Any = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "llama_models": "llama-models"}  # the others are called alike
NEVER_IMPORTED = {"tiktoken"}  # transformers imports it where `demo` converts the vocabulary
NEVER_DECLARED = {"llama_cpp"}  # pip compiles it; `demo` runs it where it is installed already
_BY_NAME = {"import_module", "import_package", "find_spec"}


def names(requirements: list[str]) -> set[str]:
    """The packages of requirements, without this one."""
    found = {re.split(r"[\[<>=!~; ]", each, maxsplit=1)[0].lower() for each in requirements}
    return found - {"llama-padfix"}


CORE = names(PROJECT["dependencies"])
EXTRAS = {name: names(each) for name, each in PROJECT["optional-dependencies"].items() if name != "test"}


def imported(path: Path) -> set[str]:
    """The distributions that a file imports or asks for by name, those for type checkers alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    branches = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    for_types = {id(inner) for branch in branches for node in branch.body for inner in ast.walk(node)}
    modules: list[str] = []
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            modules += [str(node.args[0].value)] if name in _BY_NAME else []
    tops = (
        {module.partition(".")[0] for module in modules} - {"llama_padfix", "__main__"} - set(sys.stdlib_module_names)
    )
    return {DISTRIBUTIONS.get(top, top) for top in tops}


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    used = set().union(*(imported(path) for path in SOURCE.rglob("*.py")))
    declared = CORE.union(*EXTRAS.values())
    assert len(used) > 20
    assert used - declared == NEVER_DECLARED, "imported, and not declared"
    assert declared - used == NEVER_IMPORTED, "declared, and not imported"


def test_that_test_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "import os, numpy.linalg\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from PIL import Image\n    importlib.import_module('rich.console')\n    find_spec(x)\n"
    )
    assert imported(path) == {"numpy", "pillow", "rich"}


def test_all_holds_every_extra_but_the_one_with_versions_of_its_own() -> None:
    [everything] = PROJECT["optional-dependencies"]["all"]
    listed = everything.partition("[")[2].rstrip("]").split(",")
    assert {*listed, "unsloth", "all"} == set(EXTRAS)


@pytest.mark.slow
def test_without_an_extra_it_does_what_it_says() -> None:
    """The script that `make package` runs in an environment of its own, here in one whose extras are hidden."""
    spec = importlib.util.spec_from_file_location("packaging_check", ROOT / "tests" / "packaging" / "check.py")
    assert spec is not None and spec.loader is not None
    check: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    import_names = {distribution: name for name, distribution in DISTRIBUTIONS.items()}
    brought = {"filelock", "safetensors"}  # by what the core itself installs
    hidden = sorted(import_names.get(name, name) for name in set().union(*EXTRAS.values()) - CORE - brought)
    begins = "from llama_padfix import ("
    code = check.ALONE.replace(begins, f"sys.modules.update(dict.fromkeys({hidden!r}))\n{begins}", 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.endswith("used alone\n"), done.stderr


def test_each_template_of_meta_has_its_license_in_the_expression() -> None:
    licenses: Any = pytest.importorskip("packaging.licenses")
    expression = PROJECT["license"]
    assert licenses.canonicalize_license_expression(expression) == expression
    folder, notice = SOURCE / "demo" / "templates", (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.glob("*.jinja")) == [
        "llama3_1.jinja",
        "llama3_2.jinja",
        "llama3_early.jinja",
    ]
    held = {path for each in PROJECT["license-files"] for path in ROOT.glob(each)}
    for version in ("3", "3.1", "3.2"):
        path = folder / f"LICENSE-llama{version.replace('.', '_')}.txt"
        assert "COMMUNITY LICENSE AGREEMENT" in path.read_text(encoding="utf-8") and path in held
        assert f"LicenseRef-Llama-{version}-Community" in expression
        assert f"Llama {version} Community License" in notice and path.name in notice
