"""The families of models that are shipped: functions from a few values to an architecture."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.families.cross import dcn, dcnv2
from dlrmjit.architecture.families.dlrm import dlrm, dlrm_projection
from dlrmjit.architecture.families.factorisation import deepfm, fm, nfm
from dlrmjit.architecture.families.heads import HEAD_VALUES, HEADS, head_nodes, with_head
from dlrmjit.architecture.families.linear import lr, wide_deep
from dlrmjit.architecture.families.parts import with_wide_part
from dlrmjit.architecture.families.sequence import SEQUENCE_VALUES, with_sequence
from dlrmjit.errors import ConfigError

FAMILIES: Mapping[str, Callable[..., Architecture]] = {
    "dlrm": dlrm,
    "dcnv2": dcnv2,
    "dlrm-projection": dlrm_projection,
    "dcn": dcn,
    "lr": lr,
    "fm": fm,
    "deepfm": deepfm,
    "wide-deep": wide_deep,
    "nfm": nfm,
}
"""Every family by its name on the command line."""
ALWAYS_WIDE = ("lr", "fm", "deepfm", "wide-deep", "nfm")
"""Families whose logit always has a weight per category and per dense feature."""

__all__ = [
    "ALWAYS_WIDE",
    "FAMILIES",
    "HEADS",
    "HEAD_VALUES",
    "SEQUENCE_VALUES",
    "dcn",
    "dcnv2",
    "deepfm",
    "dlrm",
    "dlrm_projection",
    "family_values",
    "fm",
    "head_nodes",
    "lr",
    "nfm",
    "wide_deep",
    "with_head",
    "with_sequence",
    "with_wide_part",
]


def family_values(name: str) -> frozenset[str]:
    """Return the names of the values that a family is built from; raises ConfigError."""
    if name not in FAMILIES:
        raise ConfigError(f"unknown model {name!r}; known are {', '.join(FAMILIES)}")
    return frozenset(inspect.signature(FAMILIES[name]).parameters)


def build(name: str, values: Mapping[str, Any]) -> Architecture:
    """Return the model of a family from those of ``values`` that it has; raises ConfigError.

    With a ``head`` of :data:`HEADS`, the model ends in it; ``head_layers`` and ``head_dim`` are
    those of :func:`head_nodes`. With a ``sequence``, it has the vector of that column's sequence,
    as :func:`with_sequence` says.
    """
    wanted = family_values(name)
    made = FAMILIES[name](**{key: value for key, value in values.items() if key in wanted})
    of_sequence = {key: value for key, value in values.items() if key in SEQUENCE_VALUES}
    if of_sequence.get("sequence") is not None:
        made = with_sequence(made, **of_sequence)
    of_head = {key: value for key, value in values.items() if key in HEAD_VALUES}
    return with_head(made, **of_head) if of_head.get("head") else made
