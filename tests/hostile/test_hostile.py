"""A sample of malformed inputs of every kind: none ends badly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.cases import KINDS, make_cases, make_templates
from tests.hostile.pool import run_all

INPUTS = 300


def test_malformed_inputs_end_in_one_sentence_or_are_right(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    templates = make_templates(tmp_path / "templates")
    cases = make_cases(tmp_path / "cases", templates, INPUTS, seed=1)
    counts = run_all(cases, jobs=2, limit=30, sets=list(templates.values()))
    assert not counts.bad, "\n".join(counts.bad)
    assert counts.total == INPUTS
    assert set(counts.kinds) == set(KINDS)
    assert counts.right > INPUTS // 10  # otherwise the mutations are too wild to test anything
