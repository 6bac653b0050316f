"""Writes how PyTorch's optimizers update parameters over 20 steps, for our tests to compare.

    PYTHON -m bench.parity_optim --reference DIR --out FILE.npz

Needs an interpreter with torch; DIR is a checkout of facebookresearch/dlrm, whose row-wise
Adagrad is used. The file holds a weight and a table, their gradients of every step (those of the
table as rows looked up and the gradient of each lookup), and the values after every step.
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

STEPS = 20
RATE = 0.05
SHAPE = (5, 7)
ROWS, DIM, LOOKUPS = 9, 6, 8
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {}),
    "sgd_decay": ("SGD", {"weight_decay": 0.01}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "momentum_decay": ("SGD", {"momentum": 0.9, "weight_decay": 0.01}),
    "adagrad": ("Adagrad", {}),
    "adagrad_all": (
        "Adagrad",
        {"lr_decay": 0.1, "weight_decay": 0.01, "initial_accumulator_value": 0.2, "eps": 1e-3},
    ),
    "adam": ("Adam", {}),
    "adam_all": (
        "Adam",
        {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.01},
    ),
    "adamw": ("AdamW", {}),
    "adamw_all": ("AdamW", {"betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1}),
    "rwsadagrad": ("RWSAdagrad", {"weight_decay": 0.01, "eps": 1e-4, "lr_decay": 0.05}),
}
SPARSE: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {}),
    "adagrad": ("Adagrad", {}),
    "adagrad_all": ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-3}),
    "adam": ("SparseAdam", {}),
    "adam_all": ("SparseAdam", {"betas": (0.8, 0.99), "eps": 1e-3}),
    "rwsadagrad": ("RWSAdagrad", {}),
    "rwsadagrad_all": (
        "RWSAdagrad",
        {"lr_decay": 0.05, "initial_accumulator_value": 0.1, "eps": 1e-4},
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run every optimizer on the same gradients and store what it does."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, required=True, help="checkout of the reference")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    options = parser.parse_args(argv)
    sys.path.insert(0, str(options.reference))
    inputs = _inputs()
    state = dict(inputs)
    for name, (kind, settings) in DENSE.items():
        state[f"dense/{name}"] = _dense(inputs, kind, settings)
    for name, (kind, settings) in SPARSE.items():
        state[f"sparse/{name}"] = _sparse(inputs, kind, settings)
    np.savez_compressed(options.out, **state)
    return 0


def _inputs() -> dict[str, Any]:
    rng = np.random.default_rng(123)
    return {
        "rate": np.float64(RATE),
        "w": rng.standard_normal(SHAPE).astype(np.float32),
        "g": rng.standard_normal((STEPS, *SHAPE)).astype(np.float32),
        "table": rng.standard_normal((ROWS, DIM)).astype(np.float32),
        "indices": rng.integers(0, ROWS, (STEPS, LOOKUPS)),
        "gradients": rng.standard_normal((STEPS, LOOKUPS, DIM)).astype(np.float32),
    }


def _optimizer(kind: str, parameter: Any, settings: dict[str, Any]) -> Any:
    home = "optim.rwsadagrad" if kind == "RWSAdagrad" else "torch.optim"
    return getattr(importlib.import_module(home), kind)([parameter], lr=RATE, **settings)


def _dense(inputs: dict[str, Any], kind: str, settings: dict[str, Any]) -> Any:
    torch = importlib.import_module("torch")
    w = torch.nn.Parameter(torch.tensor(inputs["w"]))
    optimizer = _optimizer(kind, w, settings)
    history = []
    for g in inputs["g"]:
        w.grad = torch.tensor(g)
        optimizer.step()
        history.append(w.detach().numpy().copy())
    return np.stack(history)


def _sparse(inputs: dict[str, Any], kind: str, settings: dict[str, Any]) -> Any:
    torch = importlib.import_module("torch")
    w = torch.nn.Parameter(torch.tensor(inputs["table"]))
    optimizer = _optimizer(kind, w, settings)
    history = []
    for indices, gradients in zip(inputs["indices"], inputs["gradients"], strict=True):
        w.grad = torch.sparse_coo_tensor(
            torch.tensor(indices)[None], torch.tensor(gradients), (ROWS, DIM)
        )
        optimizer.step()
        history.append(w.detach().numpy().copy())
    return np.stack(history)


if __name__ == "__main__":
    run_program(main)
