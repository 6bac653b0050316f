"""The worked examples of docs/how_to_add run as they are written.

A page's blocks are applied in order to a copy of the product:

- ``file=PATH`` after the language writes the block there in the copy;
- ``edit=PATH`` applies the block, a diff without line numbers, whose old lines must be there once;
- ``write=NAME`` writes the block into the folder where the commands run;
- a block of ``sh`` or ``python`` without any of these runs there.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from docs.layers import ROOT

PAGES = sorted((ROOT / "docs" / "how_to_add").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)(?: (file|edit|write)=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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


def run(language, text, product, where):
    environment = os.environ | {"PYTHONPATH": f"{product}{os.pathsep}{product / 'kernels'}"}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-c", text] if language == "python" else ["bash", "-ec", text]
    done = subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_runs(page, tmp_path):
    product, where = copy_of_product(tmp_path / "product"), tmp_path / "run"
    where.mkdir()
    blocks = BLOCK.findall(page.read_text())
    assert blocks
    for language, action, name, text in blocks:
        if action == "file":
            (product / name).parent.mkdir(exist_ok=True)
            (product / name).write_text(text)
        elif action == "edit":
            edit(product / name, text)
        elif action == "write":
            (where / name).write_text(text)
        elif language in ("sh", "python"):
            run(language, text, product, where)


def test_an_edit_whose_lines_are_gone_is_refused(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("a = 1\nb = 2\n")
    edit(path, " a = 1\n-b = 2\n+b = 3\n")
    assert path.read_text() == "a = 1\nb = 3\n"
    with pytest.raises(AssertionError, match="does not have these lines once"):
        edit(path, "-b = 2\n+b = 3\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_says_to_touch_are_those_of_its_example(page):
    text = page.read_text()
    table = text.split("\n## ")[0]
    touched = {name for _, action, name, _ in BLOCK.findall(text) if action in ("file", "edit")}
    missing = {name for name in touched if f"`{name}`" not in table}
    assert missing == set(), "name them in the table of files to touch"
