"""A dry run notes exactly the kernels that a training step calls; nothing is run."""

import json
import subprocess
import sys

import pytest

_SHARED = """
import json
from dlrmjit.config.model import ModelConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.warm.rehearsal import Rehearsal

def rehearsal(optimizer, precision):
    config = ModelConfig((50, 70, 3), 16, (5, 20, 16), (24, 1))
    update = UpdateConfig.of(optimizer)
    return Rehearsal.of(config.architecture, 37, update, LossConfig(), precision)
"""
_NOTED = """
kernels, specs = set(), set()
for call in rehearsal(*{wanted}).kernels():
    if call.func.__name__ == "compile":
        kernels.add((call.func.__self__.py_func.__qualname__, str(call.args[0])))
    else:
        specs.add(call.args[0].symbol)
print(json.dumps([sorted(kernels), sorted(specs)]))
"""
_CALLED = """
from numba.core.registry import CPUDispatcher
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.runtime import compile
from dlrmjit.model.graph import Graph
from dlrmjit.model.model import Model
from dlrmjit.training.step import TrainingStep
kernels, original = set(), CPUDispatcher._compile_for_args

def compile_for(self, *args, **kwargs):
    if any(self is kernel for kernel in compile._kernels):
        types = tuple(map(self.typeof_pyval, args))
        kernels.add((self.py_func.__qualname__, str(types)))
    return original(self, *args, **kwargs)

CPUDispatcher._compile_for_args = compile_for
asked = rehearsal(*{wanted})
model = Model(asked.architecture, backend="jit", precision=asked.precision)
TrainingStep(model, asked.update, asked.loss)(asked.batch(), 0.1)
scoring = Graph(model, 37)
scoring.load(asked.batch())
scoring.tape.forward()
specs = {{symbol for _, symbol in engine._addresses}}
print(json.dumps([sorted(kernels), sorted(specs)]))
"""


def _run(program: str, wanted: tuple[str, str]) -> list[list[list[str]]]:
    source = _SHARED + program.format(wanted=wanted)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[list[list[str]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("wanted", [("sgd", "fp32"), ("adagrad", "bf16")])
def test_a_rehearsal_notes_the_kernels_that_a_step_and_scoring_call(
    wanted: tuple[str, str],
) -> None:
    kernels, specs = _run(_NOTED, wanted)
    called, emitted = _run(_CALLED, wanted)
    assert kernels == called
    assert set(map(str, emitted)) <= set(map(str, specs))
