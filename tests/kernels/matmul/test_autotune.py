"""Which blocking wins by repeated measurements, and when that may be stored."""

import pytest
from dlrmjit_kernels.matmul import autotune, tuning_cache
from dlrmjit_kernels.matmul.autotune import Tuned, choose_winner
from dlrmjit_kernels.matmul.blocking import Blocking, Shape
from dlrmjit_kernels.runtime.target import current_target

SHAPE = Shape(100, 50, 200)
RULE, OTHER = Blocking(6, 16, 256, 64), Blocking(6, 16, 512, 64)


@pytest.mark.parametrize(
    ("rule", "other", "winner"),
    [
        ((1.0, 1.01, 1.0), (0.8, 0.81, 0.8), OTHER),
        ((1.0, 1.01, 1.0), (1.2, 1.2, 1.2), RULE),
        ((1.0, 1.08, 1.0), (0.97, 0.97, 0.97), RULE),  # faster by less than the noise
    ],
)
def test_the_faster_choice_wins_if_it_is_faster_than_repeats_differ(rule, other, winner):
    tuned = choose_winner("forward", SHAPE, {RULE: rule, OTHER: other})
    assert tuned.winner == winner
    assert (tuned.gain > 1) == (winner == OTHER)
    assert tuned.noise >= max(rule) / min(rule) - 1


def test_repeats_that_differ_by_more_than_a_tenth_are_noisy():
    assert choose_winner("forward", SHAPE, {RULE: (1.0, 1.09)}).is_quiet
    assert not choose_winner("forward", SHAPE, {RULE: (1.0, 1.2)}).is_quiet


@pytest.mark.parametrize(
    ("noise", "keep", "stored"), [(0.0, True, 3), (0.5, True, 0), (0.0, False, 0)]
)
def test_only_quiet_results_are_stored_and_only_if_asked_for(
    noise, keep, stored, tmp_path, monkeypatch
):
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    target = current_target()
    winner = Blocking(target.mr, target.nr, 64, 64)
    monkeypatch.setattr(
        autotune, "_tune", lambda name, product, *_: Tuned(name, product.shape, winner, 1, 1, noise)
    )
    found = list(autotune.tune_layer(64, 40, 33, keep=keep))
    assert len(found) == 3
    assert len(tuning_cache.stored(target)) == stored
    tuning_cache.clear(target)
    assert tuning_cache.stored(target) == {}
    assert not tuning_cache.store_path(target).exists()
    tuning_cache.clear(target)  # of nothing is no error
