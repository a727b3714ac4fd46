"""Runs docs/tutorial.ipynb and stores it with its outputs, figures as pictures: `make tutorial`.

The stored notebook is what the site shows; `tests/docs/test_docs.py` runs it again and compares.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def execute(notebook: Any, folder: Path, renderer: str) -> None:
    """Runs a notebook in place, in a folder; plotly shows figures by the renderer of that name."""
    commands = os.fspath(Path(sys.executable).parent)
    given = {
        "PLOTLY_RENDERER": renderer,
        "PATH": commands + os.pathsep + os.environ.get("PATH", ""),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
    }
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": os.fspath(folder)}},
        record_timing=False,
    )
    client.execute(env={**os.environ, **given})


def without_noise(notebook: Any) -> None:
    """Leaves out what is not a result: stderr, the traces of progress bars, the kernel's version."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [x for x in cell.outputs if not _is_noise(x)]
            cell.metadata.pop("execution", None)
    notebook.metadata.language_info = {"name": "python"}


def _is_noise(output: Any) -> bool:
    empty = output.get("data", {}).get("text/html") == ""
    return output.get("name") == "stderr" or (output.output_type == "display_data" and empty)


if __name__ == "__main__":
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder), "png")
    without_noise(notebook)
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 2**20:.2f} MiB")
