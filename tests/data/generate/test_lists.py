"""Generated lists as text; what they are is tested with ``ListBatch``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlrmjit.data.generate.lists import clicks
from dlrmjit.errors import ConfigError


def test_generated_lists_as_text(tmp_path: Path) -> None:
    made = clicks(lists=3, items=4, seed=1)
    made.to_csv(tmp_path / "clicks.csv")
    rows = np.loadtxt(tmp_path / "clicks.csv", delimiter=",", skiprows=1)
    assert (tmp_path / "clicks.csv").read_text().startswith("list,x1,x2,relevance\n")
    assert rows[:, 0].tolist() == np.repeat([0, 1, 2], 4).tolist()
    assert np.allclose(rows[:, 1:3], made.features.reshape(-1, 2), rtol=1e-6)
    assert np.array_equal(rows[:, 3], made.relevance.reshape(-1))
    with pytest.raises(ConfigError, match=r"clicks\.csv"):
        made.to_csv(tmp_path / "clicks.csv")
