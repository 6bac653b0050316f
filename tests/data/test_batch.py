import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrmjit.data import Batch
from dlrmjit.errors import DataError, IndexRangeError, ShapeError

DENSE = np.zeros((2, 3), dtype=np.float32)
INDICES = np.array([1, 2, 3, 0, 4])
OFFSETS = np.array([[0, 2, 3], [3, 3, 5]])
LABELS = [0, 1]


def test_takes_the_merged_form():
    batch = Batch(DENSE, INDICES, OFFSETS, LABELS)
    assert (batch.n, batch.tables) == (2, 2)
    assert batch.labels.dtype == np.float32
    assert batch.offsets.dtype == np.int64
    indices, offsets = batch.table(1)
    assert indices.tolist() == [0, 4]
    assert offsets.tolist() == [0, 0, 2]


@pytest.mark.parametrize("closed", [True, False])
def test_merges_one_array_per_table(closed):
    offsets = [[0, 2, 3], [0, 0, 2]] if closed else [[0, 2], [0, 0]]
    batch = Batch(DENSE, [[1, 2, 3], [0, 4]], offsets, LABELS)
    assert batch.indices.tolist() == INDICES.tolist()
    assert batch.offsets.tolist() == OFFSETS.tolist()


@given(st.data())
def test_merging_then_splitting_gives_each_table_back(data):
    n, tables = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 4))
    lengths = data.draw(
        st.lists(
            st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=tables, max_size=tables
        )
    )
    offsets = [np.append(0, np.cumsum(row)) for row in lengths]
    indices = [np.arange(row[-1], dtype=np.int32) * 7 for row in offsets]
    trim = data.draw(st.booleans())
    given_offsets = [row[:-1] for row in offsets] if trim else offsets
    batch = Batch(np.zeros((n, 1)), indices, given_offsets, np.zeros(n))
    assert batch.tables == tables
    for s in range(tables):
        table_indices, table_offsets = batch.table(s)
        np.testing.assert_array_equal(table_indices, indices[s])
        np.testing.assert_array_equal(table_offsets, offsets[s])


def test_index_types_are_preserved_and_arrays_not_copied():
    for dtype in (np.int32, np.int64):
        indices = INDICES.astype(dtype)
        batch = Batch(DENSE, indices, OFFSETS, np.zeros(2, dtype=np.float32))
        assert batch.indices is indices
        assert batch.dense is DENSE
    assert Batch(DENSE, INDICES.astype(np.uint32), OFFSETS, LABELS).indices.dtype == np.int64


def test_without_labels_they_are_nan():
    assert np.isnan(Batch(DENSE, INDICES, OFFSETS).labels).all()


def test_an_empty_list_is_a_table_without_lookups():
    batch = Batch(DENSE, [[], [3]], [[0, 0], [0, 0]], LABELS)
    assert batch.offsets.tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((DENSE[0], INDICES, OFFSETS, LABELS), r"dense must have shape \(N, D\), not \(3,\)"),
        ((DENSE, INDICES, OFFSETS, [0, 1, 1]), r"labels must have shape \(2,\)"),
        ((DENSE, INDICES, OFFSETS, ["a", "b"]), "labels must hold numbers"),
        ((DENSE, INDICES, OFFSETS[:, :2], LABELS), "2 samples must have 3 columns, not 2"),
        ((DENSE, INDICES, OFFSETS[0], LABELS), r"must be integers of shape \(S, N \+ 1\)"),
        ((DENSE, INDICES, [[0, 4, 3], [3, 3, 5]], LABELS), "table 0, sample 1: offsets decrease"),
        ((np.ones((3, 1)), INDICES, [[0, 2**63 - 1, -2, 5]], [0] * 3), "sample 1: offsets decrea"),
        ((DENSE, INDICES, [[0, 2, 3], [4, 4, 5]], LABELS), "table 1 starts at 4, .* end at 3"),
        ((DENSE, INDICES, [[1, 2, 3], [3, 3, 5]], LABELS), "table 0 starts at 1, .* end at 0"),
        ((DENSE, INDICES, [[0, 2, 3], [3, 3, 4]], LABELS), "indices end at 5, .* end at 4"),
        ((DENSE, [[1], [1]], [[0, 1]], LABELS), "2 tables have indices, 1 have offsets"),
        ((DENSE, [[1.5], [1]], [[0, 1], [0, 1]], LABELS), "indices of table 0 must be integers"),
        ((DENSE, [[1], [1]], [[0, 1], [0]], LABELS), "table 1: 2 samples need 2 or 3 offsets"),
        ((DENSE, [[1], [1]], [[0, 1], [1, 1]], LABELS), "table 1: offsets must run from 0"),
        ((DENSE, [[1], [1]], [[0, 1, 2], [0, 1]], LABELS), "run from 0 to its 1 indices"),
    ],
)
def test_incompatible_arrays_are_refused(arguments, message):
    with pytest.raises(ShapeError, match=message):
        Batch(*arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_names_the_dense_value_that_is_not_finite(bad):
    dense = DENSE.copy()
    dense[1, 2] = bad
    with pytest.raises(DataError, match=r"dense sample 1, column 2: .* not a finite number"):
        Batch(dense, INDICES, OFFSETS, LABELS)


@pytest.mark.parametrize(("value", "rows"), [(-1, 5), (5, 5), (2**40, 5), (1, 1)])
def test_names_the_index_outside_its_table(value, rows):
    indices = np.array([0, 0, 0, 0, value])
    batch = Batch(DENSE, indices, OFFSETS, LABELS)
    with pytest.raises(IndexRangeError) as caught:
        batch.check_indices([1, rows])
    error = caught.value
    assert (error.table, error.sample, error.index, error.rows) == (1, 1, value, rows)


def test_an_index_inside_every_table_passes():
    Batch(DENSE, INDICES, OFFSETS, LABELS).check_indices([4, 5])


def test_a_batch_for_another_number_of_tables_is_refused():
    with pytest.raises(ShapeError, match="lookups for 2 tables, but the model has 3"):
        Batch(DENSE, INDICES, OFFSETS, LABELS).check_indices([4, 5, 6])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dense", np.zeros((2, 3))),
        ("dense", [[0.0]]),
        ("indices", np.zeros(4, np.uint8)),
        ("indices", np.zeros(4, ">i8")),
        ("offsets", np.zeros(3, np.int64)),
        ("offsets", np.zeros((1, 3), np.int32)),
        ("labels", np.zeros((2, 1), np.float32)),
        ("labels", None),
    ],
)
def test_attributes_that_are_set_later_are_checked(name, value):
    batch = Batch(np.zeros((2, 3)), np.arange(4), np.array([[0, 2, 4]]), np.zeros(2))
    with pytest.raises(ShapeError, match=f"{name} of a batch"):
        setattr(batch, name, value)
    arrays = {n: getattr(batch, n) for n in ("dense", "indices", "offsets", "labels")}
    with pytest.raises(ShapeError, match=f"{name} of a batch"):
        Batch.unchecked(**{**arrays, name: value})


def test_arrays_of_other_samples_are_refused_when_the_batch_is_used():
    batch = Batch(np.zeros((2, 3)), np.arange(4), np.array([[0, 2, 4]]), np.zeros(2))
    batch.check_shapes()
    batch.labels = np.zeros(3, np.float32)
    with pytest.raises(ShapeError, match="2 dense rows needs 2 labels"):
        batch.check_shapes()


SIGNALLING = np.array([0x7FF0000000000001], np.uint64).view(np.float64)[0]


@pytest.mark.parametrize("value", [SIGNALLING, np.nan, np.inf, 1e300])
def test_numbers_that_float32_does_not_hold_are_refused_without_a_warning(value):
    ids, offsets = [np.zeros(2, np.int64)], [np.arange(3)]
    dense = np.array([[0.0], [value]])
    with pytest.raises(DataError, match=r"dense sample 1, column 0: .* is not a finite number"):
        Batch(dense, ids, offsets)
    with pytest.raises(DataError, match="weight 1 of the lookups is not finite"):
        Batch(np.zeros((2, 1)), ids, offsets, weights=dense[:, 0])
    with pytest.raises(DataError, match="sample 1 has the weight"):
        Batch(np.zeros((2, 1)), ids, offsets, np.zeros(2), sample_weights=dense[:, 0])
    assert not np.isfinite(Batch(np.zeros((2, 1)), ids, offsets, dense[:, 0]).labels[1])


@pytest.mark.parametrize("part", ["dense", "indices", "offsets", "labels", "sample_weights"])
def test_masked_arrays_are_refused(part):
    arrays = {
        "dense": np.zeros((2, 3), np.float32),
        "indices": [np.array([1, 2])],
        "offsets": [np.array([0, 1])],
        "labels": np.zeros(2),
        "sample_weights": np.ones(2),
    }
    value = arrays[part]
    masked = np.ma.masked_array(value[0] if isinstance(value, list) else value, mask=True)
    arrays[part] = [masked] if isinstance(value, list) else masked
    with pytest.raises(ShapeError, match="is a masked array"):
        Batch(**arrays)
    arrays[part] = [list(masked)] if isinstance(value, list) else list(masked)
    with pytest.raises(ShapeError, match="is a masked array"):
        Batch(**arrays)
