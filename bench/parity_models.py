"""Losses of 20 steps of families, equal to those of other libraries' modules from equal weights.

    python -m bench.parity_models [--reference NAME ...] [--steps 20] [--json FILE]

``torchrec`` compares DCNv2 and the projection with TorchRec's ``DLRM_DCN`` and ``DLRM_Projection``,
``deepctr`` DeepFM with that of DeepCTR-Torch, for samples of one value per column,
``torch`` all families with modules that are written from the papers' formulas
(:mod:`bench.support.torch_families`). All train with SGD on the same random batches; a library that
is not installed is named and left out. Losses are equal if they differ by at most 1e-6 of their
value.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.support import harness
from bench.support.step_cases import Case, make_batch, make_model
from dlrmjit.architecture.families import FAMILIES, build

RELATIVE = 1e-6
RATE = 0.1
_PACKAGES = {"torchrec": "torchrec", "deepctr": "deepctr_torch", "torch": "torch"}
_ROWS = (1000, 3, 70, 200, 31)
_SIZES = (1, 2, 1, 5, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare the models of all references that are installed; return 0 if all losses agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--reference", nargs="*", choices=_PACKAGES, default=list(_PACKAGES), help="default: all"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the comparisons to this file")
    options = parser.parse_args(argv)
    harness.prepare(None)
    rows = []
    for reference in options.reference:
        if find_spec(_PACKAGES[reference]) is None:
            print(f"without {reference}: {_PACKAGES[reference]} cannot be imported")
            continue
        for name, make in _models(reference).items():
            rows.append(compare(reference, name, make, options.steps))
            print("{reference:9} {model:16} {steps} losses, worst {worst:.1e}".format(**rows[-1]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0 if rows and all(row["worst"] <= RELATIVE for row in rows) else 1


def compare(reference: str, name: str, make: Callable[..., Any], steps: int) -> dict[str, Any]:
    """Return the worst relative difference of the losses of ``steps`` steps of a model."""
    from bench.support.torch_dlrm import TorchBatch
    from dlrmjit.training.step import TrainingStep

    values = {"table_rows": _ROWS, "embedding_dim": 8, "dense_features": 13}
    layers = {"mlp_bottom": (13, 32, 8), "mlp_top": (48, 16, 1), "cross_rank": 6}
    sizes = () if reference == "deepctr" else _SIZES
    case = Case(build(name, {**values, **layers}), 128, 1, sizes)
    rng = np.random.default_rng(5)
    model = make_model(case.model, rng)
    state = {key: np.array(array) for key, array in model.stored().items()}
    theirs, ours = make(case.model, state, RATE), TrainingStep(model)
    worst = 0.0
    for _ in range(steps):
        batch = make_batch(case, rng)
        expected, found = theirs(TorchBatch(batch)), ours(batch, RATE)
        worst = max(worst, abs(found - expected) / expected)
    return {"reference": reference, "model": name, "steps": steps, "worst": worst}


def _models(reference: str) -> dict[str, Callable[..., Any]]:
    """Return what makes the reference's step of each model that it has."""
    if reference == "deepctr":
        from bench.support.deepctr import DeepCtrStep

        return {"deepfm": DeepCtrStep}
    from bench.support import torch_families

    if reference == "torchrec":
        step = torch_families.TorchRecStep
        return {"dcnv2": step, "dlrm-projection": step}
    return {name: torch_families.TorchFamily for name in FAMILIES if name != "dlrm"}


if __name__ == "__main__":
    harness.run_program(main)
