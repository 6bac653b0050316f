"""Activations and their derivatives in float64, as an oracle."""

import numpy as np
from dlrmjit_kernels.codegen.activations import Activation

NAMES = ("none", "relu", "sigmoid", "tanh", "silu")
ENDS = [(name, "none") for name in NAMES] + [("none", name) for name in NAMES[1:]]
"""Of a product: its activation, or that before which it is a gradient."""
ERROR = 4e-7
"""Of an activation in float32, relative to the larger of its argument and 1."""


def activated(z, name):
    """Return the activation of ``z`` and its derivative."""
    s = 1 / (1 + np.exp(-np.clip(z, -700, 700)))
    values = {
        "none": (z, np.ones_like(z)),
        "relu": (np.maximum(z, 0), (z > 0) * 1.0),
        "sigmoid": (s, s * (1 - s)),
        "tanh": (np.tanh(z), 1 - np.tanh(z) ** 2),
        "silu": (z * s, s * (1 + z * (1 - s))),
    }
    return values[name]


def code(name):
    """Return an activation by its name."""
    return Activation[name.upper()]


def before(gradient, stored, name):
    """Return the gradient before an activation from what the forward pass stored of it."""
    slopes = {
        "none": 1.0,
        "relu": stored > 0,
        "sigmoid": stored * (1 - stored),
        "tanh": 1 - stored**2,
        "silu": stored,
    }
    return gradient * slopes[name]
