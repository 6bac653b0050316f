"""Convolutions and their gradients in float64 NumPy, on arrays (N, C, H, W) and (K, C, R, S)."""

import numpy as np


def convolved(x, w, stride, padding):
    """Return the outputs (N, K, P, Q)."""
    windows = _windows(_padded(x, padding), w.shape[2:], stride)
    return np.einsum("ncpqrs,kcrs->nkpq", windows, w.astype(np.float64), optimize=True)


def gradients(x, w, dy, stride, padding):
    """Return the gradients of x and w."""
    padded = _padded(x, padding)
    dx, dw = np.zeros_like(padded), np.zeros(w.shape)
    rows, cols = (stride * (extent - 1) + 1 for extent in dy.shape[2:])
    for r in range(w.shape[2]):
        for s in range(w.shape[3]):
            at = (..., slice(r, r + rows, stride), slice(s, s + cols, stride))
            dw[:, :, r, s] = np.einsum("nkpq,ncpq->kc", dy, padded[at], optimize=True)
            dx[at] += np.einsum("nkpq,kc->ncpq", dy, w[:, :, r, s].astype(np.float64))
    inside = slice(padding, padding + x.shape[2]), slice(padding, padding + x.shape[3])
    return dx[:, :, inside[0], inside[1]], dw


def _padded(x, padding):
    around = (padding, padding)
    return np.pad(x.astype(np.float64), ((0, 0), (0, 0), around, around))


def _windows(x, shape, stride):
    views = np.lib.stride_tricks.sliding_window_view(x, shape, axis=(2, 3))
    return views[:, :, ::stride, ::stride]
