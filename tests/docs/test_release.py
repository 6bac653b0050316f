"""Changelog, citation and version agree, and the changelog has the form of Keep a Changelog."""

import re

import pytest

from dlrmjit.version import __version__
from docs.layers import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def versions():
    return re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)


def test_versions_descend_and_the_newest_is_this_one():
    numbers = [tuple(map(int, version.split("."))) for version, _ in versions()]
    assert numbers == sorted(numbers, reverse=True)
    assert versions()[0][0] == __version__
    days = [day for _, day in versions()]
    assert days == sorted(days, reverse=True)


def test_headings_are_versions_and_kinds_of_changes():
    assert re.findall(r"^## (?!\[)(.*)", CHANGELOG, re.MULTILINE) == []
    assert CHANGELOG.count("## [Unreleased]\n") == 1
    for part in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", part, re.MULTILINE)
        assert set(kinds) <= SECTIONS
        assert len(kinds) == len(set(kinds))


def test_the_citation_names_the_newest_version():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], str(citation["date-released"])) == versions()[0]
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()


def test_templates_of_issues_have_a_name_and_ask_for_something():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert len(templates) == 3
    for template in templates:
        _, head, body = template.read_text().split("---\n", 2)
        assert re.search(r"^name: .+", head, re.MULTILINE)
        assert "**" in body
