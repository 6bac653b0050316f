"""The families of models that are shipped: functions from a few values to an architecture."""

from dlrmjit.architecture.families.dlrm import dlrm

__all__ = ["dlrm"]
