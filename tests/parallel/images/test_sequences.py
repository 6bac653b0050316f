"""Sequences on 1, 2 and 3 ranks: losses of one process, and the same bits if reproducible."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.errors import ConfigError
from dlrmjit.model.lookups import of_positions
from dlrmjit.ops.backend import Lookups
from dlrmjit.parallel.exchanges.positions import (
    bags_of_positions,
    by_bag,
    by_sample,
    check_positions,
    last_lookups,
)
from dlrmjit.parallel.plan import Placement, Plan
from tests.builders import family
from tests.parallel.launch import needs_mpi, run_ranks

PROGRAM = Path(__file__).parent / "sequences.py"
KINDS = ("rows", "whole", "columns")


@pytest.fixture(scope="module")
def found():
    """Results by the number of ranks."""
    return {ranks: json.loads(run_ranks(ranks, PROGRAM, 3).stdout) for ranks in (1, 2, 3)}


@needs_mpi
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_one_process(found, kind):
    for ranks in (1, 2, 3):
        case = found[ranks][kind]
        for step in ("ranks", "reproducible"):
            np.testing.assert_allclose(case[step], case["one"], rtol=4e-7, err_msg=f"{ranks}")


@needs_mpi
@pytest.mark.parametrize("kind", KINDS)
def test_reproducible_steps_give_the_same_bits(found, kind):
    for ranks in (2, 3):
        assert found[ranks][kind]["bits"] == found[1][kind]["bits"]


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6), st.integers(1, 4))
def test_positions_that_travelled_are_those_of_one_process(bags, length):
    values = np.array([value for bag in bags for value in bag], np.int64)
    offsets = np.cumsum([0, *map(len, bags)])
    last = last_lookups(offsets, length)
    sent = values[last.chosen] * length + last.positions
    arrived = bags_of_positions(Lookups(sent, last.offsets[None]), length)
    expected = of_positions(Lookups(values, offsets[None]), length)
    np.testing.assert_array_equal(arrived.indices, expected.indices)
    np.testing.assert_array_equal(arrived.offsets, expected.offsets)


def test_vectors_of_bags_and_of_samples_are_the_same_numbers():
    bags = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2 * 3, 4, 5)
    samples = by_sample(bags, 3)
    np.testing.assert_array_equal(samples[1, 2].reshape(3, 5), bags[3:, 2])
    np.testing.assert_array_equal(by_bag(samples, 3), bags)


def test_a_replicated_table_of_a_sequence_is_refused():
    model = family("dlrm", table_rows=(5, 6), sequence=1, sequence_length=3)
    specs = model.table_specs
    places = tuple(
        Placement("replicated" if s.positions else "whole", (0,) * (not s.positions)) for s in specs
    )
    plan = Plan(tuple(s.rows for s in specs), tuple(s.dim for s in specs), 2, places)
    with pytest.raises(ConfigError, match="whole, or split"):
        check_positions(model, plan)
