"""The pages name what exists: their links, files and code; figures stand on one page only."""

import re
from pathlib import Path

import pytest

from docs.layers import ROOT, SOURCES

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
]
PAGES = [page for page in PAGES if page.exists()]
FOLDERS = ("dlrmjit", "kernels", "tests", "bench", "docs")
FILES = {str(p.relative_to(ROOT)) for f in FOLDERS for p in (ROOT / f).rglob("*") if p.is_file()}
MEASURED = re.compile(  # a number with a unit of speed, or a ratio of speeds
    r"\d[\d.]*(e\d+)? ?(ms|us|ns|GB/s|MB/s|Gflop/s|GF/s|rows/s)\b|\d[\d.]*x\b"
    r"|\d % of (the )?(peak|roofline)|\d[\d.]* times (as fast|faster|quicker|slower)"
)


REFERENCE = {"dlrm_s_pytorch.py", "data_utils.py"}  # files of facebookresearch/dlrm


def page_name(page):
    return str(page.relative_to(ROOT))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_pages_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_source_files_that_a_page_names_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    made = set(re.findall(r"^```\w+ file=(\S+)$", page.read_text(), re.MULTILINE))
    for name in set(re.findall(r"`([\w/]+\.py)`", text)) - REFERENCE - made:
        assert any(f"/{file}".endswith(f"/{name}") for file in FILES), name


@pytest.mark.parametrize("name", ["layout.md", "kernels.md"])
def test_folders_that_the_maps_name_exist(name):
    for folder in re.findall(r"`([\w/]+)/`", (ROOT / "docs" / name).read_text()):
        assert any(f"/{folder}/" in f"/{file}" for file in FILES), folder


@pytest.mark.parametrize("name", ["layout.md", "kernels.md", "embedding.md"])
def test_classes_that_the_maps_name_exist(name):
    text = (ROOT / "docs" / name).read_text().replace("torch.optim.SparseAdam", "")
    sources = "\n".join(path.read_text() for path in SOURCES)
    for cls in set(re.findall(r"`([A-Z][a-z0-9]+[A-Z]\w+)[`(]", text)):
        assert f"class {cls}" in sources, cls


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_measured_figures_stand_in_performance_only(page):
    if page.name in ("performance.md", "README.md"):
        return
    found = [line for line in page.read_text().splitlines() if MEASURED.search(line)]
    assert found == [], "move measured figures to docs/performance.md"


def test_the_figures_of_the_readme_are_those_of_the_performance_page():
    readme, measured = ((ROOT / page).read_text() for page in ("README.md", "docs/performance.md"))
    figures = re.findall(r"\d[\d.]*(?:x| %)", readme)
    assert figures
    for figure in figures:
        assert re.search(rf"(?<![\d.]){re.escape(figure)}", measured), figure


def test_the_kernels_page_has_every_micro_kernel():
    text = (ROOT / "docs" / "kernels.md").read_text()
    folder = ROOT / "kernels" / "dlrmjit_kernels" / "microkernels"
    for module in {path.stem for path in folder.glob("*.py")} - {"__init__"}:
        assert f"`{module}`" in text or f"/{module}.py`" in text, module


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
        waiting += [(page.parent / t).resolve() for t in links if not t.startswith("http")]
    assert {Path(p) for p in PAGES} <= reached
