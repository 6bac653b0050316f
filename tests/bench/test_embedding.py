"""The benchmark of embedding bags: the bytes that its second bound counts."""

import pytest

from bench.embedding import vector_gbytes
from bench.support.embedding_cases import Case

CASE = Case("mlperf", (500, 30, 7), 128, 1, 2048)


@pytest.mark.parametrize(("job", "passes"), [("infer", 1), ("update", 1), ("train", 2)])
def test_pooled_vectors_and_gradients_pass_once_each(job, passes):
    assert vector_gbytes(CASE, job) == pytest.approx(passes * 3 * 2048 * 128 * 4e-9)


def test_vectors_of_one_lookup_per_bag_move_as_much_as_rows():
    assert vector_gbytes(CASE, "infer") == pytest.approx(CASE.gbytes)
