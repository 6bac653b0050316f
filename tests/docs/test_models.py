"""The page about models runs as it is written, from the top to the end."""

import pytest

from docs.layers import ROOT
from tests.docs.test_how_to_add import BLOCK, run
from tests.parallel.launch import mpiexec


def test_the_page_runs(tmp_path):
    for language, action, name, text in BLOCK.findall((ROOT / "docs" / "models.md").read_text()):
        if action == "write":
            (tmp_path / name).write_text(text)
        elif "mpiexec" in text and mpiexec() is None:
            pytest.skip("needs mpiexec and mpi4py for the last part")
        else:
            run(language, text, ROOT, tmp_path)
