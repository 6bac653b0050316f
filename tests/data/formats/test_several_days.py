"""Any number of Criteo's days make one set, numbered over all of them."""

import numpy as np

from dlrmjit.cli.commands import prepare


def write_day(path, day, rows=30):
    lines = []
    for r in range(rows):
        numbers = ["" if i == 4 else str((r * 7 + i) % 9) for i in range(13)]
        hashes = [f"{(r + i + day) % 5 + 4294967290:08x}" for i in range(26)]
        lines.append("\t".join([str((r + day) % 2), *numbers, *hashes]))
    path.write_text("\n".join(lines) + "\n")
    return lines


def test_two_days_are_numbered_in_the_order_of_their_rows(tmp_path):
    texts = [write_day(tmp_path / f"day_{day}", day) for day in range(2)]
    words = [tmp_path / "day_0", tmp_path / "day_1", "--out", tmp_path / "set", "--shuffle", "none"]
    assert prepare.main(list(map(str, words))) == 0
    train = tmp_path / "set" / "train"
    for column in range(26):
        seen = {}
        expected = [seen.setdefault(r.split("\t")[14 + column], len(seen)) for r in texts[0]]
        assert np.load(train / "ids.npy")[:, column].tolist() == expected
    assert set(np.load(train / "dense.npy")[:, 4].tolist()) == {0}
    labels = np.load(train / "labels.npy")
    assert labels.tolist() == [float(r[0]) for r in texts[0]]
