"""Bins and piecewise linear encoding let linear models follow numbers that are not linear."""

from bench.bins import measure


def test_bins_lift_the_auc(tmp_path):
    found = measure(8000, 0, tmp_path)
    for model in ("lr", "fm"):
        assert found[f"{model}, bins"] > found[f"{model}, numbers"] + 0.1
        assert found[f"{model}, piecewise"] > found[f"{model}, numbers"] + 0.1
        assert found[f"{model}, bins"] > found["best"] - 0.05
