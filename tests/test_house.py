"""The budgets of the house, and the order of its rooms: `lint-imports` holds the order, these tests hold the sizes."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llama_padfix"

FILE_LINES, FUNCTION_LINES, ROOM_LINES, DIRECT_IMPORTS = 350, 60, 2_500, 8
TEST_FILE_LINES, TEST_FUNCTION_LINES = 700, 80
# A list of every public name, and the two places that compose rooms: their imports are what they are for.
COMPOSITIONS = {"__init__.py", "cli/__init__.py", "training/prepare.py"}


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def find_large(path: Path, source: str, file_lines: int, function_lines: int) -> Iterator[str]:
    """Yield what exceeds a budget: the file, or one of its functions."""
    if source.count("\n") > file_lines:
        yield f"{path}: {source.count(chr(10))} lines, at most {file_lines}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > function_lines:
                yield f"{path}:{node.lineno} {node.name}: {length} lines, at most {function_lines}"


def direct_imports(source: str) -> set[str]:
    """Return the modules of this package that a file needs while it runs, wherever in the file the import stands."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    return {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only
        if node.module and node.module.startswith("llama_padfix.")
    }


def test_files_and_functions_of_the_package_fit_a_screen() -> None:
    found = [
        fault
        for path in python_files(PACKAGE)
        for fault in find_large(path.relative_to(ROOT), path.read_text(), FILE_LINES, FUNCTION_LINES)
    ]
    assert found == []


def test_files_and_functions_of_tests_and_benchmarks_keep_their_budget() -> None:
    found = [
        fault
        for folder in ("tests", "benchmarks", "examples", "docs")
        for path in python_files(ROOT / folder)
        for fault in find_large(path.relative_to(ROOT), path.read_text(), TEST_FILE_LINES, TEST_FUNCTION_LINES)
    ]
    assert found == []


def test_a_file_imports_few_others_of_the_package() -> None:
    found = {
        name: len(imports)
        for path in python_files(PACKAGE)
        if (name := path.relative_to(PACKAGE).as_posix()) not in COMPOSITIONS
        and len(imports := direct_imports(path.read_text())) > DIRECT_IMPORTS
    }
    assert found == {}


def test_a_room_without_its_sub_rooms_is_read_in_one_sitting() -> None:
    rooms = {path.parent for path in python_files(PACKAGE)} - {PACKAGE / "doctor" / "checks"}
    lines = {
        room.relative_to(PACKAGE).as_posix(): sum(path.read_text().count("\n") for path in room.glob("*.py"))
        for room in rooms
    }
    assert {room: count for room, count in lines.items() if count > ROOM_LINES} == {}


def test_every_room_says_what_it_is_for_and_names_its_files() -> None:
    for path in python_files(PACKAGE):
        if path.name == "__init__.py" and path.parent not in (PACKAGE, PACKAGE / "cli", PACKAGE / "doctor" / "checks"):
            tree = ast.parse(path.read_text())
            assert len(tree.body) == 1, f"{path} holds its docstring and nothing else"
            text = ast.get_docstring(tree) or ""
            missing = [f.stem for f in path.parent.glob("*.py") if f.stem != "__init__" and f"`{f.stem}" not in text]
            assert missing == [], path


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("\n" * 351, "x.py: 351 lines, at most 350"),
        ("def f():\n" + "    pass\n" * 60, "x.py:1 f: 61 lines, at most 60"),
    ],
)
def test_the_budget_can_be_exceeded(source: str, fault: str) -> None:
    assert list(find_large(Path("x.py"), source, FILE_LINES, FUNCTION_LINES)) == [fault]


ORDER = "Each room imports only from the rooms below it"


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("core/errors.py", "import llama_padfix.view.mask_view", ORDER),
        (
            "tokens/calls.py",
            "import llama_padfix.hardware.precision",
            ORDER,
        ),
        (
            "doctor/checks/pad001_missing_pad_token.py",
            "import llama_padfix.doctor.observe.model",
            "A check reads facts, never a live object",
        ),
        ("encoding/record.py", "import llama_padfix.encoding.encoder", "No circle inside a room"),
        ("novel/__init__.py", "", ORDER),
    ],
)
def test_a_planted_violation_breaks_the_contract(tmp_path: Path, file: str, line: str, contract: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "llama_padfix", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / "llama_padfix" / file
    planted.parent.mkdir(exist_ok=True)
    with planted.open("a") as out:
        out.write(f"\n{line}\n")
    script = Path(sys.executable).with_name("lint-imports")
    if not script.exists():
        pytest.skip("import-linter is not installed, as on Python 3.10")
    done = subprocess.run(
        [script, "--no-cache", "--no-logo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"{contract} BROKEN" in said or "novel" in said
