"""The command that shows micro-kernels."""

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest
from dlrmjit_kernels import microkernels
from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.inspect import KERNELS, read_assembly
from dlrmjit_kernels.inspect.__main__ import main
from dlrmjit_kernels.runtime.target import named_target

from docs.layers import ROOT


def shown(capsys, *words):
    assert main(words) == 0
    return capsys.readouterr().out


def counts(text):
    table = text.strip().rsplit("inner loop\n", 1)[1]
    rows = (line.rsplit(maxsplit=2) for line in table.splitlines())
    return {kind: (int(whole), int(loop)) for kind, whole, loop in rows}


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_can_be_shown(name):
    target = named_target("avx512_bf16")
    assembly = engine.assembly(KERNELS[name](target), target, commented=True)
    assert len(read_assembly(assembly).instructions) > 4


def test_code_of_other_machines_can_be_shown(capsys):
    assert "vector registers of 128 bits" in shown(capsys, "gemm", "--target", "neon")


def test_every_micro_kernel_is_in_the_catalogue():
    known = set()
    for module in pkgutil.iter_modules(microkernels.__path__, f"{microkernels.__name__}."):
        for name, each in vars(importlib.import_module(module.name)).items():
            if getattr(each, "__module__", "") == module.name and hasattr(each, "symbol"):
                known.update(() if name.startswith("_") else [each])
    shown = {type(make(named_target("avx512_bf16"))) for make in KERNELS.values()}
    assert known == shown


def test_the_tile_of_avx2_computes_from_registers(capsys):
    text = shown(capsys, "gemm", "--rows", "6", "--cols", "16", "--target", "avx2")
    assert counts(text)["multiply-adds"][1] == 4 * 6 * 2  # four steps are unrolled
    assert counts(text)["broadcasts"][1] == 4 * 6
    assert "0 of vectors, 0 in the inner loop" in text
    assert "15 in use, the widest 256 bits" in text


def test_a_tile_that_exceeds_the_registers_spills(capsys):
    text = shown(capsys, "gemm", "--rows", "12", "--cols", "16", "--target", "avx2")
    assert "0 of vectors" not in text
    assert "16 in use" in text


def test_code_loop_and_ir_are_shown(capsys):
    words = ("gather", "--width", "32", "--target", "avx512", "--show")
    assert "retq" in shown(capsys, *words, "asm")
    assert "retq" not in shown(capsys, *words, "loop")
    assert "define void @row_gather_e32_i64" in shown(capsys, *words, "ir")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gemm", "--target", "mmx"), "known are"),
        (("gemm", "--operands", "bf16", "--target", "avx2"), "has no BF16"),
        (("round-bf16", "--target", "avx2"), "has no BF16"),
        (("gather", "--index-bits", "16"), "32 or 64"),
    ],
)
def test_what_no_kernel_exists_for_is_refused(capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("rows", ["0", "-1", "x", "100000"])
def test_sizes_are_checked(capsys, rows):
    with pytest.raises(SystemExit):
        main(("gemm", "--rows", rows))
    assert "from 1 to" in capsys.readouterr().err


def test_a_closed_pipe_ends_it_cleanly():
    command = f"{sys.executable} -m dlrmjit_kernels.inspect gemm --show asm | head -1"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "kernels")}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
