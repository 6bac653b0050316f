"""MLPerf's binary records: read, written, and equal to the reference's."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from dlrmjit.cli.commands.convert import main as convert
from dlrmjit.data.formats.mlperf_bin import open_bin, read_counts
from dlrmjit.data.prepare.options import PrepareOptions
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.errors import DataError
from tests.data.formats.builders import (
    REAL,
    rows_of,
)

# SHA-256 of what facebookresearch/dlrm 090956e writes for the 8,000 real rows with
# --memory-map --data-randomize=none --max-ind-range=10000000, then its numpy_to_binary
REAL_BIN = {
    "train": "00c6f5476dd0be4972acd437e4a0882309b1086621f888f46bfffeb9347b0f9a",
    "test": "fd961cbd764301bdadcd5e53b5b77a7311a850f7eed7a656cc5fdfa547d18aec",
    "val": "a2bf6c1e68b39f0b574c2a51c8b7b23e8ce2b1d91db85a14c50e80e48ae333cf",
}


def test_bin_round_trip(home: Path, whole: np.ndarray, tmp_path: Path) -> None:
    assert convert([str(home / "set"), str(tmp_path / "x"), "--to", "bin"]) == 0
    raw = [np.fromfile(tmp_path / f"x_{s}.bin", np.int32) for s in ("train", "test", "val")]
    assert (np.concatenate(raw).reshape(-1, 40) == whole).all()
    rows = read_counts(tmp_path / "day_fea_count.npz")
    assert rows == PreparedSet(home / "set").manifest.table_rows
    assert open_bin(tmp_path / "x_train.bin", rows).log_transform
    assert convert([str(tmp_path / "x_train.bin"), str(tmp_path / "back"), "--to", "set"]) == 0
    for split in ("train", "test", "validation"):
        back, first = (PreparedSet(p).dataset(split) for p in (tmp_path / "back", home / "set"))
        assert (rows_of(back) == rows_of(first)).all()


def test_a_truncated_bin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\0" * 161)
    with pytest.raises(DataError, match="161 bytes"):
        open_bin(tmp_path / "x.bin")
    with pytest.raises(DataError, match="cannot be read"):
        open_bin(tmp_path / "none.bin")


@pytest.mark.skipif(not REAL.exists(), reason=f"no real Criteo rows at {REAL}")
def test_real_rows_equal_the_reference(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(gzip.decompress(REAL.read_bytes()))
    text = (tmp_path / "train.txt",)
    prepare(PrepareOptions(text, tmp_path / "set", shuffle="none", max_ind_range=10_000_000))
    assert convert([str(tmp_path / "set"), str(tmp_path / "x"), "--to", "bin"]) == 0
    for split, digest in REAL_BIN.items():
        found = hashlib.sha256((tmp_path / f"x_{split}.bin").read_bytes()).hexdigest()
        assert found == digest
