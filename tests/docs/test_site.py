"""The site is built without a warning: no dead link, no unknown anchor, no docstring misread."""

import html.parser
import os
import subprocess
import sys

import pytest

from docs.layers import ROOT
from docs.site import API, plain_roles, public_names

pytest.importorskip("material")
pytest.importorskip("mkdocstrings_handlers.python")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as README says, with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


class _Page(html.parser.HTMLParser):
    """Collects the targets and the anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        self.links += [values[name] for name in ("href", "src") if values.get(name)]


def test_links_lead_to_files_and_anchors_of_the_site(site):
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 40
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links start at the root of the site
            continue
        for link in page.links:
            if ":" in link.split("/")[0]:
                continue
            name, _, anchor = link.split("?")[0].partition("#")
            target = (path.parent / name).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            known = target in pages and (not anchor or anchor in pages[target].anchors)
            if not (known or (target.is_file() and target not in pages)):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_other_hosts(site):
    for path in site.rglob("*.html"):
        page = path.read_text()
        assert 'src="http' not in page
        assert 'rel="stylesheet" href="http' not in page


@pytest.mark.parametrize("module", API)
def test_every_public_name_is_on_the_page_of_its_module(module, site):
    page = _Page((site / "api" / module / "index.html").read_text())
    linked = {link.partition("#")[2] for link in page.links}
    for name, home in public_names(module).items():
        assert f"{home}.{name}" in page.anchors | linked, name


def test_marks_of_the_tests_are_no_part_of_a_page(site):
    for path in site.rglob("*.html"):
        text = path.read_text()
        assert not any(mark in text for mark in ("sh not run:", "python not run:", "given:")), path


def test_roles_become_code():
    assert plain_roles("see :class:`~a.Batch` and :mod:`.b`") == "see `a.Batch` and `b`"
