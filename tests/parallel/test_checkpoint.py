"""A checkpoint of any number of ranks is loaded by any other number, with any plan."""

import numpy as np
import pytest

from dlrmjit.checkpoint.manifest import Part
from dlrmjit.checkpoint.reshard import overlap_of
from dlrmjit.training import persistence
from tests.parallel.launch import needs_mpi, run_program


@needs_mpi
@pytest.mark.parametrize(
    ("saving_ranks", "loading_ranks", "saved", "loaded"),
    [
        (1, 2, "fp32", "fp32"),
        (3, 2, "fp32", "bf16"),
        (2, 3, "bf16", "fp32"),
        (1, 3, "bf16", "bf16"),
    ],
)
def test_any_number_of_ranks_loads_any_checkpoint(
    tmp_path, saving_ranks, loading_ranks, saved, loaded
):
    run_program(saving_ranks, "checkpoints", "save", tmp_path, saved)
    assert run_program(loading_ranks, "checkpoints", "load", tmp_path, loaded) is True
    for kind in ("whole", "columns", "rows", "replicated", "mixed"):
        expected = np.load(tmp_path / f"{kind}.npz")
        model = persistence.load(tmp_path / kind, backend="reference")
        assert model.precision == saved
        state = model.state_dict()
        assert set(state) == set(expected)
        for name, value in state.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=f"{kind} {name}")


@pytest.mark.parametrize("stored_step", [1, 2, 3, 5])
@pytest.mark.parametrize("wanted_step", [1, 2, 4])
def test_overlaps_are_the_rows_of_both_parts(stored_step, wanted_step):
    rows = 23
    for p in range(stored_step):
        for q in range(wanted_step):
            part, wanted = Part("f", p, rows, stored_step), Part("", q, rows, wanted_step)
            stored, target = list(range(rows)[p::stored_step]), list(range(rows)[q::wanted_step])
            both = sorted(set(stored) & set(target))
            found = overlap_of(part, wanted, 4)
            if found is None:
                assert not both
                continue
            assert stored[found.stored_start :: found.stored_step][: found.count] == both
            assert target[found.target_start :: found.target_step][: found.count] == both


def test_overlaps_are_the_columns_of_both_parts():
    part, wanted = Part("f", 0, 5, 1, 2, 6), Part("", 0, 5, 1, 4, None)
    found = overlap_of(part, wanted, 8)
    assert (found.stored_cols, found.target_cols) == (slice(2, 4), slice(0, 2))
    assert overlap_of(part, Part("", 0, 5, 1, 6, 8), 8) is None
