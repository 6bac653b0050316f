"""The package of the kernels works without the product."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "kernels" / "dlrmjit_kernels"
PROGRAM = """
import sys
sys.modules["dlrmjit"] = None  # importing it is an error from here on
import numpy as np
import dlrmjit_kernels as dk
a, b = np.ones((3, 5), np.float32), np.ones((5, 4), np.float32)
print(dk.__file__)
print(dk.gemm(a, b).sum())
table = np.arange(12, dtype=np.float32).reshape(4, 3)
pooled = dk.embedding_bag([table], np.array([0, 3]), np.array([[0, 2]]))
print(pooled[0, 0].tolist())
for name in dk.__all__:
    getattr(dk, name)
"""


def test_kernels_need_nothing_of_the_product(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "dlrmjit_kernels")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where, total, pooled = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert (total, pooled) == ("60.0", "[9.0, 11.0, 13.0]")
