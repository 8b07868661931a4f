"""Run the notebooks of this folder and write their outputs back: python examples/notebooks/execute.py [NAME ...]

`make notebooks` runs all. Progress bars and warnings are left out, so that the files hold what the text is about.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
TIMEOUT = 300  # seconds a cell


def execute(notebook: Any) -> Any:  # `nbformat.NotebookNode`, which has no types
    """Return a notebook with the outputs of a new kernel, run in an empty folder.

    The kernel is that of the running Python, and imports the package of this checkout.
    """
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    fresh = nbformat.from_dict(notebook)
    packages = (str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, packages))}
    with tempfile.TemporaryDirectory() as place:
        # Sockets in a folder of their own: no ports.
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(Path(place) / "socket"))
        client = NotebookClient(
            fresh, km=manager, timeout=TIMEOUT, record_timing=False, coalesce_streams=True, resources={}
        )
        (Path(place) / "cwd").mkdir()
        client.execute(cleanup_kc=True, cwd=str(Path(place) / "cwd"), env=environment)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.metadata = {}
    fresh.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return fresh


def main(names: list[str]) -> None:
    """Run the named notebooks, or all."""
    import nbformat

    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            run = execute(nbformat.read(path, as_version=4))
            path.write_text(nbformat.writes(run, indent=1) + "\n", encoding="utf-8")
            print(f"{path.name}: {len(run.cells)} cells, {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
