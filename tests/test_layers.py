"""Imports only point down, modules stay short, and nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llama_padfix

SOURCE = Path(llama_padfix.__file__).parent

# Lowest first: a module imports from the rows above its own, and from none beside or below it.
LAYERS = (
    ("facts", "render", "counts"),
    ("records", "probe"),
    (
        "policy",
        "row_turns",
        "columns",
        "jinja_environment",
        "provenance",
        "selection",
        "choices",
        "compat",
        "incident",
        "processes",
        "spikes",
        "memory_trace",
        "proofs",
        "chunks",
        "encoded_file",
    ),
    (
        "observe_model",
        "snapshot",
        "causes",
        "evidence",
        "health",
        "listening",
        "lora",
        "backoff",
        "memory_kernels",
        "fast_engine",
    ),
    ("observe", "observe_rows", "observe_folder", "observe_environment", "row_training", "memory_step", "marking"),
    (
        "checks",
        "formats",
        "bos",
        "collator",
        "precision",
        "checkpoint",
        "quantization",
        "unsloth_backend",
        "embeddings",
    ),
    (
        "examine",
        "observe_trainer",
        "engines",
        "chats",
        "opaque",
        "offsets",
        "sandbox",
        "traces",
        "devices",
        "view_rows",
        "memory_model",
        "memory_plan",
    ),
    ("spans", "structure", "turns", "attention", "optimizers", "view_text", "dates", "memory"),
    ("chat", "labels", "view_page", "encoding", "remarks", "truncation", "memory_command"),
    ("careful_way", "recipes", "layouts"),
    ("plain_way",),
    ("both_ways",),
    ("tokenizer", "encode"),
    ("observe_data", "load_plan", "untrained", "view_read", "encode_cache", "encode_workers"),
    ("completion", "doctor", "dataset", "loading", "trainer", "view"),
    ("compose", "healing", "investigate"),
    ("watching",),
    ("guard",),
)
ONLY = {"reference": {"records"}, "checks": {"records", "policy", "row_turns"}, "pages": {"records"}}
ON_TOP = {"cli", "demo", "__init__", "__main__"}  # may import everything

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "numpy", "accelerate", "tokenizers", "pyarrow"}
HEAVY |= {"bitsandbytes", "unsloth"}
LONGEST = 350


def modules() -> dict[str, str]:
    """The source of every module by its path inside the package."""
    return {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}


def find_faults(path: str, source: str) -> Iterator[str]:
    """What a module does that the layers forbid."""
    name = path.split("/")[0].removesuffix(".py")
    if name not in LEVEL and name not in ON_TOP and name not in ONLY:
        yield f"{path} stands in no layer"
    if source.count("\n") > LONGEST:
        yield f"{path} has more than {LONGEST} lines"
    tree = ast.parse(source)
    for module in _imported(ast.walk(tree)):
        package, _, inner = module.partition(".")
        inner = inner.split(".")[0]
        if package != "llama_padfix" or name in ON_TOP:
            continue
        if name in ONLY:
            allowed = inner in ONLY[name]
        else:
            allowed = inner in LEVEL and name in LEVEL and LEVEL[inner] < LEVEL[name]
        if not allowed:
            yield f"{path} imports {inner or 'the package itself'}"
    for module in _imported(_run_at_import(tree)):
        if module.split(".")[0] in HEAVY:
            yield f"{path} imports {module} before it is used"


def _imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "llama_padfix":
                yield from (f"llama_padfix.{alias.name}" for alias in node.names)
            elif node.level:
                yield f"llama_padfix.{node.module or ''} (relative)"
            else:
                yield module


def _run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those inside a function or under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from _run_at_import(node)


@pytest.mark.parametrize("path", sorted(modules()))
def test_module_keeps_to_its_layer(path: str) -> None:
    assert list(find_faults(path, modules()[path])) == []


def test_every_module_of_the_table_exists() -> None:
    names = {path.split("/")[0].removesuffix(".py") for path in modules()}
    assert {*LEVEL, "reference"} <= names


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("policy.py", "from llama_padfix.observe import observe", "policy.py imports observe"),
        ("bos.py", "from llama_padfix.formats import read_row", "bos.py imports formats"),
        ("labels.py", "def f():\n    from llama_padfix import encode", "labels.py imports encode"),
        ("labels.py", "import llama_padfix.compose as c", "labels.py imports compose"),
        ("labels.py", "from llama_padfix import prepare", "labels.py imports prepare"),
        ("labels.py", "import llama_padfix", "labels.py imports the package itself"),
        ("chat.py", "from .encode import ChatEncoder", "chat.py imports encode (relative)"),
        ("checks/x.py", "from llama_padfix.observe import observe", "checks/x.py imports observe"),
        ("reference.py", "from llama_padfix.tokenizer import plan_patch", "reference.py imports tokenizer"),
        ("records.py", "import torch", "records.py imports torch before it is used"),
        (
            "bos.py",
            "try:\n    import numpy.typing\nexcept ImportError: pass",
            "bos.py imports numpy.typing before it is used",
        ),
        ("cli.py", "from transformers import AutoTokenizer", "cli.py imports transformers before it is used"),
        ("compose.py", "class A:\n    import trl", "compose.py imports trl before it is used"),
        ("novel.py", "", "novel.py stands in no layer"),
        ("bos.py", "\n" * 351, "bos.py has more than 350 lines"),
    ],
)
def test_that_test_can_fail(path: str, source: str, fault: str) -> None:
    assert list(find_faults(path, source)) == [fault]


def test_what_is_allowed() -> None:
    inside = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n"
    assert list(find_faults("bos.py", inside)) == []
    assert list(find_faults("compose.py", "from llama_padfix.tokenizer import plan_patch")) == []


def test_the_design_page_names_every_module_in_its_layer() -> None:
    page = (SOURCE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == len(LAYERS)
    for row, names in zip(reversed(rows), LAYERS, strict=True):
        assert all(f"`{name}`" in row or f"`{name}/*`" in row for name in names), row
