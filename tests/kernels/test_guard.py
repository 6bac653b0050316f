"""The guards see what they should see, and no function of the kernels is forgotten."""

import platform
import subprocess
import sys

import numpy as np
import pytest

from tests.kernels.guard import FREED_AT_ONCE
from tests.kernels.guarded_calls import GuardedLoop, guarded, guarded_call, guarded_empty
from tests.kernels.guarded_functions import METHODS, NO_ACCESS, WRITTEN, functions_of_arrays
from tests.parallel.launch import ROOT, environment


def test_every_function_that_takes_arrays_is_guarded_or_reads_none():
    listed = [
        (module, name)
        for table in (WRITTEN, NO_ACCESS)
        for module, names in table.items()
        for name in names
    ]
    assert sorted(listed) == sorted(functions_of_arrays())


def test_methods_that_are_guarded_exist():
    import importlib

    for module, classes in METHODS.items():
        for name, methods in classes.items():
            owner = getattr(importlib.import_module(f"dlrmjit_kernels.{module}"), name)
            assert all(callable(getattr(owner, method)) for method in methods)


def _add(x, y, out):
    np.add(x, y, out)


def test_outputs_of_a_guarded_call_are_copied_back_and_overlaps_stay():
    values = np.arange(8.0)
    guarded_call(_add, frozenset({"out"}))(values[:4], values[2:6], values[:4])
    assert values.tolist() == [2, 4, 6, 8, 4, 5, 6, 7]


def test_a_call_bound_within_a_guarded_one_is_the_call_itself():
    def bound():
        return 0

    def bind_nothing(x):
        return bound

    bind = guarded_call(bind_nothing, frozenset())
    assert bind(np.ones(3)) is not bound
    assert guarded_call(lambda x: bind(x), frozenset())(np.ones(3)) is bound


def test_bytes_before_an_array_are_canaries():
    def write_before(x):
        flat = np.lib.stride_tricks.as_strided(x, (x.size + 1,))
        np.frombuffer(x.base.base, "u1", 1, 4096 + 4096 - x.nbytes - 1)[0] = 0 if flat.size else 1

    with pytest.raises((AssertionError, ValueError)):
        guarded_call(write_before, frozenset({"x"}))(np.zeros(4))


FAULTS = {
    "reads behind": "loop(x)",
    "writes a read-only operand": "guarded_call(write, frozenset())(x)",
    "writes behind in a bound call": "guarded_call(bind_write, frozenset({'x'}))(x)()",
}
PROGRAM = """
import numpy as np
from tests.kernels.guard import guarded_kernels
from tests.kernels.guarded_calls import guarded_call
with guarded_kernels():
    from dlrmjit_kernels.runtime.compile import jit

    @jit
    def loop(x):
        return x[x.size]

    def write(x):
        x[0] = 1

    def bind_write(x):
        far = np.lib.stride_tricks.as_strided(x, (x.size + 1,))
        return lambda: far.fill(1)

    x = np.zeros(5)
    {call}
"""


@pytest.mark.parametrize("name", FAULTS)
def test_an_access_outside_an_array_ends_the_process(name):
    program = PROGRAM.format(call=FAULTS[name])
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment())
    assert done.returncode == -11


FREED = """
import numpy as np
from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit

@jit
def sums(n, is_alive):
    scratch = np.zeros(n, np.float32)
    address = scratch.ctypes.data
    for i in range(n):
        unsafe.store(address + 4 * i, np.float32(i))
    total = np.float32(0)
    for i in range(n):
        total += unsafe.load(address + 4 * i)
    if is_alive:
        unsafe.keep_alive(scratch)
    return total
"""
CALL = "\nassert sums(100_000, True) > 0"
EARLY = FREED.replace("    if is_alive:\n        unsafe.keep_alive(scratch)\n", "")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("program", "status"), [(FREED, 0), (EARLY, -11)])
def test_memory_that_is_used_after_it_is_freed_ends_the_process(program, status, tmp_path):
    source = tmp_path / "program.py"
    source.write_text(program + CALL)
    variables = {**environment(), **FREED_AT_ONCE}
    done = subprocess.run([sys.executable, source], cwd=ROOT, env=variables)
    assert done.returncode == status


def test_uninitialised_memory_has_no_numbers():
    assert np.isnan(guarded_empty((3, 5))).all()


def test_a_compiled_loop_of_the_package_is_guarded():
    assert issubclass(GuardedLoop, type(_loop()))
    assert guarded(np.arange(3)).tolist() == [0, 1, 2]


def _loop():
    from dlrmjit_kernels.embedding.lookups import any_outside

    return any_outside
