"""Dynamic ids on ranks: the losses of one process, also across saves and other numbers of ranks."""

from dataclasses import replace

import numpy as np
import pytest

from dlrmjit.architecture.dynamic_ids import DynamicIds
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.dynamic import check_dynamic, with_dynamic_rows
from dlrmjit.parallel.planner import propose
from tests.builders import family
from tests.parallel.launch import needs_mpi, run_program


@needs_mpi
@pytest.mark.parametrize(
    ("ranks", "backend"), [(1, "jit"), (2, "jit"), (3, "jit"), (2, "reference")]
)
def test_losses_are_those_of_one_process_also_across_saves(ranks, backend, tmp_path):
    cases = run_program(ranks, "dynamic_ids", 5, backend, tmp_path)
    assert len(cases) == 4
    for name, case in cases.items():
        tolerance = 3e-4 if name == "fm/adam" else 4e-7  # of bf16, whose sums round differently
        for ours, alone in (
            ("early", "early alone"),
            ("late", "late alone"),
            ("loaded alone", "late alone"),
            ("spread", "late alone"),
        ):
            message = f"{name}: {ours}"
            np.testing.assert_allclose(case[ours], case[alone], rtol=tolerance, err_msg=message)
        assert case["resumed"] == case["late"], name


def _model(**how):
    model = family("fm", table_rows=(50, 30))
    return replace(model, dynamic=DynamicIds((0,), **how))


def _plan(model, ranks, kind="auto"):
    specs = model.table_specs
    return propose([s.rows for s in specs], [s.dim for s in specs], ranks, kind=kind)


def test_rows_of_dynamic_ids_are_on_all_ranks():
    model = _model()
    plan = with_dynamic_rows(_plan(model, 3), model)
    kinds = [
        p.kind
        for p, spec in zip(plan.placements, model.table_specs, strict=True)
        if spec.column == 0
    ]
    assert kinds == ["rows", "rows"]
    check_dynamic(model, plan, 3)


def test_what_ranks_cannot_do_is_refused_by_name():
    model = _model()
    with pytest.raises(ConfigError, match=r"wide.0.weight has dynamic ids.*id mod 2.*whole"):
        check_dynamic(model, _plan(model, 2, "whole"), 2)
    with pytest.raises(ConfigError, match="--reproducible"):
        check_dynamic(model, with_dynamic_rows(_plan(model, 2), model), 4)
    with pytest.raises(ConfigError, match="50 rows, fewer than the 60 ranks"):
        check_dynamic(model, with_dynamic_rows(_plan(model, 60), model), 60)
