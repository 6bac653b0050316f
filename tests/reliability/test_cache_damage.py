"""Damaged files of the kernel cache are compiled again, whatever is wrong with them."""

from tests.reliability.cache_damage import cache_files, damages, run


def test_damaged_files_give_the_same_results(tmp_path):
    cache = tmp_path / "cache"
    assert run(cache)[0] == 0
    assert {path.suffix for path in cache_files(cache)} == {".kernel", ".nbc", ".nbi"}
    assert list(damages(cache, 6, seed=1)) == []
