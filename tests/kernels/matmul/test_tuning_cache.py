"""The store of measured blockings: used when present, ignored when broken, safe to delete."""

import json
from pathlib import Path

import pytest
from dlrmjit_kernels.matmul import autotune, tuning_cache
from dlrmjit_kernels.matmul.blocking import Blocking, Shape, check_blocking, choose_blocking
from dlrmjit_kernels.runtime.target import current_target

SHAPE = Shape(100, 64, 700)


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))


def test_a_stored_winner_replaces_the_rule_for_its_shape_only():
    target = current_target()
    winner = Blocking(target.mr, target.nr, 128, 64)
    tuning_cache.store(target, {SHAPE: winner})
    assert tuning_cache.blocking_for(target, SHAPE) == winner
    other = Shape(100, 64, 701)
    assert tuning_cache.blocking_for(target, other) == choose_blocking(target, other)


def test_later_winners_are_added_and_a_deleted_file_is_no_loss():
    target = current_target()
    for kc in (128, 256):
        tuning_cache.store(target, {Shape(1, 1, kc): Blocking(target.mr, target.nr, kc, 64)})
    assert tuning_cache.blocking_for(target, Shape(1, 1, 128)).kc == 128
    tuning_cache.store_path(target).unlink()
    tuning_cache._stored.cache_clear()
    assert tuning_cache.blocking_for(target, SHAPE) == choose_blocking(target, SHAPE)


def test_winners_of_other_kernels_are_ignored_and_replaced(monkeypatch):
    target = current_target()
    old, new = (Blocking(target.mr, target.nr, kc, 64) for kc in (64, 128))
    with monkeypatch.context() as then:
        then.setattr(tuning_cache, "measured_kernels", lambda: "others")
        tuning_cache.store(target, {SHAPE: old})
        assert tuning_cache.blocking_for(target, SHAPE) == old
    tuning_cache._stored.cache_clear()
    assert tuning_cache.blocking_for(target, SHAPE) == choose_blocking(target, SHAPE)
    other = Shape(100, 64, 701)
    tuning_cache.store(target, {other: new})
    assert tuning_cache.blocking_for(target, other) == new
    assert tuning_cache.blocking_for(target, SHAPE) == choose_blocking(target, SHAPE)


def test_a_file_from_before_kernels_were_named_is_ignored():
    target = current_target()
    tuning_cache.store(target, {SHAPE: Blocking(target.mr, target.nr, 64, 64)})
    path = tuning_cache.store_path(target)
    path.write_text(json.dumps(json.loads(path.read_text())["winners"]))
    tuning_cache._stored.cache_clear()
    assert tuning_cache.blocking_for(target, SHAPE) == choose_blocking(target, SHAPE)


@pytest.mark.parametrize("content", ["", "[]", "[{}]", "{", "[1]", '{"a": 1}'])
def test_a_broken_file_is_ignored(content):
    target = current_target()
    path = tuning_cache.store_path(target)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert tuning_cache.blocking_for(target, SHAPE) == choose_blocking(target, SHAPE)


@pytest.mark.parametrize("value", [1.5, "64", None, True, -1, 0, 1 << 50, [64]])
@pytest.mark.parametrize("field", ["mr", "nr", "kc", "mc"])
def test_a_file_with_a_wrong_value_is_ignored(field, value):
    target = current_target()
    path = tuning_cache.store(target, {SHAPE: Blocking(target.mr, target.nr, 64, 64)})
    content = json.loads(path.read_text())
    content["winners"][0][field] = value
    path.write_text(json.dumps(content))
    tuning_cache._stored.cache_clear()
    assert tuning_cache.blocking_for(target, SHAPE) == choose_blocking(target, SHAPE)


def test_every_candidate_is_legal_and_the_rule_comes_first():
    target = current_target()
    choices = tuning_cache.candidates(target, SHAPE)
    assert choices[0] == choose_blocking(target, SHAPE)
    assert len(choices) > 3
    assert all(check_blocking(choice, target) for choice in choices)


def test_the_fastest_choice_wins():
    target = current_target()
    slow, fast = (Blocking(target.mr, target.nr, kc, 64) for kc in (64, 128))
    runs = []

    def run(choice):
        runs.append(choice)
        sum(range(200_000 if choice == slow else 10))

    assert tuning_cache.fastest([slow, fast], run, 0.0)[0] == fast
    assert runs == [slow, fast] * 2


def test_a_layer_is_tuned_and_its_winners_are_stored(monkeypatch):
    monkeypatch.setattr(autotune, "MOST_NOISE", float("inf"))
    found = list(autotune.tune_layer(64, 40, 33, seconds=0.0))
    assert [one.operation for one in found] == ["forward", "backward_data", "backward_weights"]
    for one in found:
        assert tuning_cache.blocking_for(current_target(), one.shape) == one.winner


def test_every_pattern_of_decisive_sources_names_one():
    kernels = Path(tuning_cache.__file__).parents[1]
    assert all(list(kernels.glob(pattern)) for pattern in tuning_cache._DECISIVE)
