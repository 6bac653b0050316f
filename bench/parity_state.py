"""Writes the results of a short training run of the reference program, for our tests to compare.

    PYTHON -m bench.parity_state --reference DIR --out FILE.npz

Needs an interpreter with torch and the reference's requirements. The file holds the batches,
the initial parameters, every gradient of the first step, all losses and the final parameters
of a few steps of SGD on a small model, so that the tests need no torch. The models are one per
interaction, and one with tables of mixed widths.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.support.harness import run_program

STEPS = 10
RATE = 0.3
ROWS = (40, 1, 3, 17)
BOTTOM = (13, 33, 8)
TOP = (19, 1)
BATCH = 21
LOOKUPS = 5
SEED = 123
DIMS = (2, 8, 3, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the reference for all models and store its state."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True, help="checkout of the reference")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    options = parser.parse_args(argv)
    sys.path.insert(0, str(options.reference))
    state: dict[str, Any] = {}
    for kind in ("dot", "cat", "mixed"):
        state.update({f"{kind}/{name}": value for name, value in _run(kind).items()})
    np.savez_compressed(options.out, **state)
    return 0


def _run(kind: str) -> dict[str, Any]:
    torch = importlib.import_module("torch")
    model = _model(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    state = {f"initial/{k}": v.copy() for k, v in _arrays(model).items()}
    np.random.seed(SEED)
    losses = []
    for step in range(STEPS):
        dense, offsets, indices, labels = _batch()
        loss = model.loss_fn(model(dense, offsets, indices), labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            state.update(_gradients(model))
        optimizer.step()
        losses.append(loss.item())
    state.update({f"final/{k}": v for k, v in _arrays(model).items()})
    state["losses"] = np.array(losses)
    return state


def _arrays(model: Any) -> dict[str, Any]:
    return {_name(k): v.detach().numpy() for k, v in model.state_dict().items()}


def _name(name: str) -> str:
    """Return the name of a parameter as ours has it, mixed tables like others."""
    return name.replace(".embs.weight", ".weight")


def _model(kind: str) -> Any:
    program = importlib.import_module("dlrm_s_pytorch")
    features = len(ROWS) + 1
    pairs = features * (features - 1) // 2
    width = features * BOTTOM[-1] if kind == "cat" else BOTTOM[-1] + pairs
    np.random.seed(SEED)
    importlib.import_module("torch").manual_seed(SEED)
    return program.DLRM_Net(
        list(DIMS) if kind == "mixed" else BOTTOM[-1],
        np.array(ROWS),
        np.array(BOTTOM),
        np.array((width, *TOP)),
        arch_interaction_op="cat" if kind == "cat" else "dot",
        md_flag=kind == "mixed",
        md_threshold=0,
        sigmoid_top=len(TOP) - 1,
        loss_function="bce",
    )


def _batch() -> tuple[Any, Any, Any, Any]:
    data = importlib.import_module("dlrm_data_pytorch")
    dense, offsets, indices = data.generate_dist_input_batch(
        BOTTOM[0], np.array(ROWS), BATCH, LOOKUPS, False, "uniform", 0, 1, -1, 1
    )
    return dense, offsets, indices, data.generate_random_output_batch(BATCH, 1, True)


def _gradients(model: Any) -> dict[str, Any]:
    values = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        values[f"gradient/{_name(name)}"] = dense.detach().numpy().copy()
    return values


if __name__ == "__main__":
    run_program(main)
