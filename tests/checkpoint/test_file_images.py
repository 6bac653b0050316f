"""Checkpoints that are copied first and written later: the files of the arrays as they were."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrmjit.checkpoint import ImageMemory, copy_checkpoint, save_checkpoint
from dlrmjit.precision import SplitArray

ROWS = st.integers(0, 3000)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def arrays(rows, seed):
    random = np.random.default_rng(seed)
    bits = [random.integers(0, 1 << 15, (rows, 2), dtype=np.uint16) for _ in range(2)]
    state = {
        "emb_l.0.weight": random.random((rows, 3), dtype=np.float32),
        "emb_l.1.weight": SplitArray(*bits),
        "bot_l.0.weight": random.random((9, 4), dtype=np.float32)[::2, 1:],
    }
    return state, {"bot_l.0.weight/step": np.array(seed), "emb_l.0.weight/sum": random.random(rows)}


@settings(max_examples=25, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_copies_in_memory_used_again_become_the_files_of_the_arrays_as_they_were(sizes):
    memory = ImageMemory()
    with tempfile.TemporaryDirectory() as folder:
        copied, saved = Path(folder, "copied"), Path(folder, "saved")
        for seed, rows in enumerate(sizes):
            (state, optimizer), facts = arrays(rows, seed), {"model_config": {}, "progress": {}}
            save_checkpoint(saved, state, optimizer=optimizer, **facts)
            finish = copy_checkpoint(copied, state, optimizer=optimizer, memory=memory, **facts)
            state["emb_l.0.weight"][:] = -1.0
            state["emb_l.1.weight"].high[:] = 7
            optimizer["emb_l.0.weight/sum"][:] = 5
            finish()
            assert contents(copied) == contents(saved)
