"""The notebooks of examples/ run from top to bottom, and are stored without outputs."""

import json
import os
import subprocess
import sys

import pytest

from docs.layers import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
PROGRAM = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
nbformat.write(notebook, "run.ipynb")
"""


def name(path):
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_notebook_runs(path, tmp_path):
    for library in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(library)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    command = [sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = (tmp_path / "run.ipynb").read_text()
    assert "dlrmjit: error" not in made  # of commands, whose exit code is no exception
    assert "Traceback" not in made


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_notebook_is_stored_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    assert cells[0]["cell_type"] == "markdown"
    for cell in cells:
        assert not cell.get("outputs"), "clear the outputs"
        assert cell.get("execution_count") is None
