"""The page of environment variables has those that the sources read, and no others."""

import ast
import re

from docs.layers import ROOT, SOURCES

PAGE = ROOT / "docs" / "environment.md"
VARIABLE = re.compile(
    r"(DLRMJIT|DLRM|NUMBA|OMP|GOMP|XDG|SLURM|PMI|PMIX|OMPI|MV2|MVP|JSM|PALS|FLUX)_[A-Z0-9_]+"
)


def named_in_sources():
    """Return the variables that are a string of their own somewhere, as names to look up are."""
    return {
        node.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and VARIABLE.fullmatch(node.value)
    }


def test_the_page_has_the_variables_of_the_sources():
    names = {match[0] for match in VARIABLE.finditer(PAGE.read_text())}
    assert named_in_sources() == names


def test_every_knob_is_on_the_page():
    text = PAGE.read_text()
    for file in ("dlrmjit/knobs.py", "kernels/dlrmjit_kernels/knobs.py"):
        for match in VARIABLE.finditer((ROOT / file).read_text()):
            assert f"`{match[0]}`" in text, match[0]
