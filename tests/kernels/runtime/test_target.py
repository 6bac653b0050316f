"""The probe of the processor and the register tiles that follow from it."""

import pytest
from dlrmjit_kernels.runtime.target import current_target, named_target

from dlrmjit.errors import TargetError


@pytest.mark.parametrize("isa", ["amx_bf16", "avx512_bf16", "avx512", "avx2", "sse", "neon"])
def test_tile_of_every_target_fits_its_registers(isa):
    target = named_target(isa)
    assert 2 * target.mr + 2 + 1 <= target.registers
    assert target.row_block % target.pair_rows == 0


def test_avx2_tile_is_six_by_sixteen():
    target = named_target("avx2")
    assert (target.mr, target.nr) == (6, 16)


def test_this_machine_is_recognised():
    target = current_target()
    assert target.l1 <= target.l2
    assert target.cpu


def test_a_forced_target_is_obeyed(monkeypatch):
    lesser = "sse" if current_target().isa != "neon" else "neon"
    monkeypatch.setenv("DLRMJIT_TARGET", lesser)
    assert current_target().isa == lesser


def test_unknown_and_foreign_targets_are_refused(monkeypatch):
    with pytest.raises(TargetError, match="known are"):
        named_target("z80")
    foreign = "avx2" if current_target().isa == "neon" else "neon"
    monkeypatch.setenv("DLRMJIT_TARGET", foreign)
    with pytest.raises(TargetError, match="cannot run"):
        current_target()
