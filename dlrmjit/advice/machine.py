"""A machine as the predictions see it: its ceilings, and the share of them that kernels reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dlrmjit.advice.network import ONE_HOST, Network
from dlrmjit.perf.roofline import Ceilings

ASSUMED = Ceilings(120.0, 15.0)  # of one CPU, until they are measured


@dataclass(frozen=True)
class OperationCost:
    """Seconds of an operation on all CPUs of a host: a fixed part, and one for each sample."""

    fixed: float
    per_sample: float


@dataclass(frozen=True)
class Machine:
    """Hosts of ``cpus`` CPUs and ``memory`` bytes each, with ``ceilings`` of all CPUs of a host.

    ``efficiency`` is the share of the roofline that a step reaches, ``overhead`` the seconds of an
    operation beyond it. ``measured`` replaces both: the cost of every operation of one model, by
    precision and name. ``skew`` is the scatter of the ranks' times, ``hides`` the share of
    communication that overlaps with computation where it could.
    """

    cpus: int
    memory: int
    ceilings: Ceilings
    network: Network = ONE_HOST
    hosts: int = 1
    efficiency: float = 0.8
    overhead: float = 20e-6
    bf16_gain: float = 1.0
    hides: float = 0.34
    skew: float = 0.05
    measured: Mapping[str, Mapping[str, OperationCost]] = field(default_factory=dict)
