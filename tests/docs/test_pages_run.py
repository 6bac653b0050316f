"""The pages about training, lists and scikit-learn run as they are written."""

import re

import pytest

from docs.layers import ROOT
from tests.docs.test_how_to_add import run

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", ["training.md", "lists.md", "sklearn.md"])
def test_the_page_runs(page, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("pandas")
    for text in PYTHON.findall((ROOT / "docs" / page).read_text()):
        run("python", text, ROOT, tmp_path)
