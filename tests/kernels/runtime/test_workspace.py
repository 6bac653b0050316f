"""Arrays of a workspace: reused while they are large enough, replaced when they are not."""

import numpy as np
from dlrmjit_kernels.runtime.workspace import Workspace


def test_an_array_that_is_large_enough_is_reused():
    workspace = Workspace()
    first = workspace.get("entries", 100, np.int64)
    assert first.size >= 100
    assert first.dtype == np.int64
    assert workspace.get("entries", 50, np.int64) is first
    assert workspace.get("entries", first.size, np.int64) is first


def test_a_larger_request_replaces_the_array():
    workspace = Workspace()
    first = workspace.get("entries", 100, np.int64)
    second = workspace.get("entries", first.size + 1, np.int64)
    assert second is not first
    assert second.size > first.size
    assert workspace.get("scales", 1, np.float32) is not second


def test_what_was_made_for_some_sizes_is_made_again_for_others_only():
    workspace, made = Workspace(), iter("abc")
    found = [workspace.cached("sort", sizes, lambda: next(made)) for sizes in (1, 1, 2, 1)]
    assert found == ["a", "a", "b", "c"]
