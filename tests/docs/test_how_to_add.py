"""The worked examples of docs/how_to_add run as they are written.

A page's snippets are applied in order to a copy of the product.
"""

import re
import shutil

import pytest

from docs.layers import ROOT
from tests.docs.snippets import run, snippets

PAGES = sorted((ROOT / "docs" / "how_to_add").glob("*.md"))


def copy_of_product(folder):
    for name in ("dlrmjit", "kernels", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def edit(path, diff):
    """Replace the old lines of every hunk by its new lines."""
    text = path.read_text()
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        assert text.count(old) == 1, f"{path.name} does not have these lines once:\n{old}"
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_runs(page, tmp_path):
    product, where = copy_of_product(tmp_path / "product"), tmp_path / "run"
    where.mkdir()
    blocks = snippets(page)
    assert blocks
    for block in blocks:
        if block.action == "file":
            (product / block.name).parent.mkdir(exist_ok=True)
            (product / block.name).write_text(block.text)
        elif block.action == "edit":
            edit(product / block.name, block.text)
        elif block.action == "write":
            (where / block.name).write_text(block.text)
        elif block.runs:
            run(block.language, block.text, product, where)


def test_an_edit_whose_lines_are_gone_is_refused(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("a = 1\nb = 2\n")
    edit(path, " a = 1\n-b = 2\n+b = 3\n")
    assert path.read_text() == "a = 1\nb = 3\n"
    with pytest.raises(AssertionError, match="does not have these lines once"):
        edit(path, "-b = 2\n+b = 3\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_says_to_touch_are_those_of_its_example(page):
    table = page.read_text().split("\n## ")[0]
    touched = {block.name for block in snippets(page) if block.action in ("file", "edit")}
    missing = {name for name in touched if f"`{name}`" not in table}
    assert missing == set(), "name them in the table of files to touch"
