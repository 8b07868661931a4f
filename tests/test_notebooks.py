"""The notebooks run as they stand, and hold the outputs that a run gives: small, and without anything of a machine."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 40_000  # bytes of a notebook with its outputs
OF_A_MACHINE = re.compile(
    r"(?<![\w.])/(?:tmp|home|root|usr|work|Users|opt)/|[A-Z]:\\\\|site-packages|127\.0\.0\.1|localhost"
)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outline(notebook: Any) -> list[Any]:
    """What each cell printed, and in which forms it showed its value."""
    return [
        [
            "".join(output["text"]) if output["output_type"] == "stream" else sorted(output.get("data", {}))
            for output in cell["outputs"]
        ]
        for cell in code_cells(notebook)
    ]


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["fix_my_script", "look_at_my_mask", "why_does_my_model_never_stop"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_its_outputs_and_nothing_of_a_machine(path: Path) -> None:
    text, notebook = path.read_text(encoding="utf-8"), read(path)
    assert len(text.encode()) < LARGEST
    assert OF_A_MACHINE.findall(text) == []
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run from top to bottom"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) >= 3
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    pages = ["".join(output["data"]["text/html"]) for output in outputs if output["output_type"] == "execute_result"]
    assert pages and not [page for page in pages if "<script" in page]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_links_of_a_notebook_lead_to_files(path: Path) -> None:
    texts = ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]
    links = [link for text in texts for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links and [link for link in links if not (FOLDER / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_run_gives_the_outputs_that_are_committed(path: Path) -> None:
    nbformat: Any = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.execute(nbformat.read(path, as_version=4))
    assert outline(run) == outline(read(path)), "regenerate them: make notebooks"
