"""Axes of layouts: which elements they address, and the tiles that fit into their blocks."""

import pytest
from dlrmjit_kernels.matrix.axes import Axis, common_tile, view_of
from dlrmjit_kernels.matrix.matrix import Layout
from hypothesis import given
from hypothesis import strategies as st


def offset(axis: Axis, index: int) -> int:
    return index // axis.block * axis.block_stride + index % axis.block * axis.step


@given(st.integers(1, 100), st.integers(1, 12), st.booleans(), st.integers(1, 4))
def test_every_nth_element_is_an_axis_too(extent, blocks, uniform, count):
    block = 9 if uniform else 3 * blocks * count
    axis = Axis(extent, block, block * 5 if uniform else 1000, 5)
    if not axis.uniform and axis.block % count:
        return
    thinned = axis.every(count)
    assert thinned.extent == -(-extent // count)
    for i in range(thinned.extent):
        assert offset(thinned, i) == offset(axis, count * i)


def test_the_blocks_of_a_uniform_axis_do_not_matter():
    rows = view_of(Layout.plain(9, 4)).rows
    assert rows.uniform
    assert rows.stride(3) == 3 * 4
    assert view_of(Layout.blocked(9, 4, 3, 2)).rows.stride(3) is not None
    assert view_of(Layout.blocked(9, 4, 3, 2)).rows.stride(4) is None


@pytest.mark.parametrize(("blocks", "tile"), [((), 7), ((12,), 12), ((12, 18), 6)])
def test_a_tile_lies_within_blocks_of_all_axes(blocks, tile):
    axes = [Axis(100, block, 1000, 1) for block in blocks]
    assert common_tile([Axis(100, 100, 0, 1), *axes], 7) == tile
