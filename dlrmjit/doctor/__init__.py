"""Examines a machine: whether it is set up to train fast and safely, and what to change."""

from dlrmjit.doctor.examine import Scope, examine
from dlrmjit.doctor.finding import Finding, Level
from dlrmjit.doctor.host import Host

__all__ = ["Finding", "Host", "Level", "Scope", "examine"]
