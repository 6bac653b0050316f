import numpy as np
import pytest

from bench import list_metrics


def test_peers_measure_what_ours_does(monkeypatch):
    pytest.importorskip("scipy")
    monkeypatch.setattr(list_metrics, "of_ranx", lambda *_: [])
    rng = np.random.default_rng(0)
    scores, grades = rng.random((5, 4)), np.array([[1.0, 0, 2, 0]] * 5)
    values, seconds = list_metrics.measured(scores, grades, np.arange(6) * 4)
    found = list_metrics.peers(values, scores, grades)
    assert seconds > 0
    assert len(found) == 4
    for name, ours, peer in found:
        assert np.allclose(peer(), ours, rtol=0, atol=1e-12), name
