"""Importing the package is free, and every public name is what it says, in whatever order things are imported."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import llama_padfix

SOURCE = Path(llama_padfix.__file__).parent
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(SOURCE)], "llama_padfix."))
LIMIT = 0.050
HEAVY = ("torch", "transformers", "numpy")

# Measures inside the new process, from the first statement on: what starting Python itself takes is not counted.
PROBE = """
import sys, time
before = time.perf_counter()
{statement}
print(time.perf_counter() - before, *[name for name in {heavy!r} if name in sys.modules])
"""


def import_cost(statement: str, runs: int = 7) -> tuple[float, set[str]]:
    """The least time that a statement took in a new Python (others use the machine too), and what heavy it loaded."""
    seconds, loaded = [], set()
    for _ in range(runs):
        code = PROBE.format(statement=statement, heavy=HEAVY)
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent
        )
        first, *names = out.stdout.split()
        seconds.append(float(first))
        loaded |= set(names)
    return min(seconds), loaded


def test_importing_takes_under_50_ms_and_loads_nothing_heavy() -> None:
    seconds, loaded = import_cost("import llama_padfix")
    assert loaded == set()
    assert seconds < LIMIT


@pytest.mark.parametrize("heavy", ["torch", "numpy"])
@pytest.mark.slow
def test_that_test_can_fail(heavy: str) -> None:
    seconds, loaded = import_cost(f"import llama_padfix, {heavy}", runs=1)
    assert heavy in loaded
    if heavy == "torch":
        assert seconds > LIMIT


def first_heavy(modules: list[str]) -> str:
    """Import modules one after another in a new Python; return the first with which something heavy came, and what."""
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    found = [name for name in {HEAVY!r} if name in sys.modules]
    if found:
        print(module, *found)
        break
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent)
    return done.stdout.strip()


def test_no_module_loads_torch_transformers_or_numpy() -> None:
    assert len(MODULES) > 200
    assert first_heavy(MODULES) == ""
    assert first_heavy(["llama_padfix", "numpy.random", "llama_padfix.cli"]) == "numpy.random numpy"


@pytest.mark.parametrize("name", llama_padfix.__all__)
def test_every_public_name_resolves_with_a_docstring(name: str) -> None:
    value = getattr(llama_padfix, name)
    assert name in dir(llama_padfix)
    if isinstance(value, (int, str)):
        return  # a constant
    assert value.__doc__ and not value.__doc__.startswith(f"{name}("), "dataclasses make up a docstring of their own"
    assert value.__module__.startswith("llama_padfix.")


def test_the_list_of_public_names_serves_python_and_type_checkers() -> None:
    tree = ast.parse((SOURCE / "__init__.pyi").read_text())
    exported = {
        alias.asname or "": (str(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert len(exported) >= 50
    assert set(llama_padfix.__all__) == {*exported, "__version__"}
    for name, (module, defined) in exported.items():
        assert getattr(llama_padfix, name) is getattr(importlib.import_module(module), defined)
        assert name == defined
    with pytest.raises(AttributeError, match="module 'llama_padfix' has no attribute 'prepares'"):
        _ = llama_padfix.prepares  # type: ignore[attr-defined]


def test_no_module_shadows_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules([str(SOURCE)])}
    assert len(modules) >= 10
    assert modules.isdisjoint(llama_padfix.__all__)


def test_prepare_is_the_function_whatever_was_imported_before() -> None:
    for module in MODULES:
        importlib.import_module(module)
    from llama_padfix import prepare

    assert callable(prepare)
    assert prepare.__module__ == "llama_padfix.training.prepare"
    for name in llama_padfix.__all__:
        assert not isinstance(getattr(llama_padfix, name), type(sys))
