"""The vectors of a factorisation machine, by variational Bayes.

The logit is a linear form plus the products of all pairs of vectors, one vector per category. With
one value for each element, products of rare categories fit noise; so every element has a normal
distribution instead, whose variance is large where few rows determine it (the logistic likelihood
is bounded as by Jaakkola and Jordan, 2000; the factors are independent). The means of one table and
factor, given all others, have a closed form. The prior variance of each is estimated as that of
linear weights, which removes factors that the rows do not support: on rows without products, none
is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dlrmjit.model.linear_start.design import F64, Design, Lookups
from dlrmjit.model.linear_start.regression import conjugate_gradients, estimated_shrinkage

MOST_FACTORS = 8
"""Elements of a vector that are solved; those after them start at 0."""
_SWEEPS, _SWEEPS_NEAR = 20, 5
_STILL = 0.003  # mean change of the logits in a sweep, after which there is no other
_NO_EFFECT = 0.001  # mean of a factor's part of the logits, below which it is removed
_FIXED_SWEEPS = 4  # in which random vectors find their directions before they are shrunk
_FIRST_VARIANCE = 2.0  # of the logits, about, by random vectors


class Factors(NamedTuple):
    """Distributions of vectors: means and variances (K, all rows), and shrinkage (K, tables)."""

    means: F64
    variances: F64
    shrinkage: F64

    @classmethod
    def drawn(cls, width: int, table_rows: tuple[int, ...]) -> Factors:
        """Return random vectors, always the same."""
        tables = len(table_rows)
        pairs = max(1, tables * (tables - 1))
        scale = (_FIRST_VARIANCE / (width * pairs)) ** 0.25
        means = np.random.default_rng(0).normal(scale=scale, size=(width, sum(table_rows)))
        variances = np.full_like(means, scale**2)
        return cls(means, variances, np.full((width, tables), scale**-2))

    def copy(self) -> Factors:
        """Return distributions that may be changed."""
        return Factors(*(np.array(values) for values in self))


def factorise(
    design: Design, weights: F64, width: int, near: Factors | None = None
) -> tuple[F64, Factors]:
    """Return linear weights and ``width`` factors that together fit the rows.

    ``weights`` are those of :func:`~dlrmjit.model.linear_start.regression.solve` for the same rows.
    With ``near``, the factors of similar rows, the result is the solution near them. If no factor
    has an effect, the weights are those that were given.
    """
    factors = Factors.drawn(width, design.table_rows) if near is None else near.copy()
    solver = _Solver(design, weights, factors)
    for sweep in range(_SWEEPS if near is None else _SWEEPS_NEAR):
        change = solver.sweep(shrinks=near is not None or sweep >= _FIXED_SWEEPS)
        if change < _STILL and sweep > _FIXED_SWEEPS:
            break
    if not solver.remove_factors_without_effect():
        return weights, solver.factors
    return solver.weights, solver.factors


@dataclass
class _Sums:
    """Sums (N,) over the tables of one factor, for m its pooled means and s their variances.

    ``means``, ``variances`` and ``both`` are those of m, s and s m.
    """

    means: F64
    variances: F64
    both: F64


class _Part(NamedTuple):
    """One factor's part of the logits: its sums, and the means and variances (N,) of its products.

    A product of two factors' elements has the variance s s' + s m'^2 + s' m^2, and those that share
    an element are correlated.
    """

    sums: _Sums
    means: F64
    variances: F64


class _Solver:
    """Sweeps over all weights and factors, each of which raises the bound of the likelihood."""

    def __init__(self, design: Design, weights: F64, factors: Factors) -> None:
        self.weights, self.factors = weights, factors
        self._design, self._tables = design, design.lookups_of_tables()
        self._groups, self._shrinkage = design.groups, np.ones(len(design.table_rows) + 2)
        self._shrinkage[-1] = 0.0
        self._variances = np.zeros_like(weights)
        ends = np.cumsum(design.table_rows)
        self._rows = [slice(e - r, e) for r, e in zip(design.table_rows, ends, strict=True)]
        self._active = list(range(len(factors.means)))

    def sweep(self, *, shrinks: bool) -> float:
        """Improve all parameters once; return the mean change of the logits."""
        design = self._design
        parts = self.remove_factors_without_effect()
        logits, variance = self._moments(parts)
        bend = design.weights * _bend(np.sqrt(logits**2 + variance))
        residual = design.weights * (design.labels - 0.5) - bend * logits
        first = residual.copy()
        self._improve_weights(bend, residual)
        for k, part in parts.items():
            self._improve_factor(k, part.sums, bend, residual, shrinks)
        return float(np.mean(np.abs(first - residual) / np.maximum(bend, 1e-12)))

    def remove_factors_without_effect(self) -> dict[int, _Part]:
        """Set factors to 0 whose part of the logits is small; return the parts of the others."""
        parts = {k: self._part(k) for k in self._active}
        for k in self._active:
            if np.mean(np.abs(parts[k].means)) < _NO_EFFECT:
                self.factors.means[k] = self.factors.variances[k] = 0
                del parts[k]
        self._active = list(parts)
        return parts

    def _part(self, k: int) -> _Part:
        """Return the part of factor ``k``."""
        sums = _Sums(*np.zeros((3, len(self._design.labels))))
        m_squared, s_squared, s_m_squared = np.zeros((3, len(self._design.labels)))
        for table, rows in zip(self._tables, self._rows, strict=True):
            m = table.spread(self.factors.means[k, rows])
            s = table.spread(self.factors.variances[k, rows], squared=True)
            s_m, squared = s * m, m * m
            sums.means += m
            sums.variances += s
            sums.both += s_m
            m_squared += squared
            s_squared += s * s
            s_m_squared += s * squared
        q, t = sums.means, sums.variances
        variances = (t * t - s_squared) / 2 + q * (t * q - 2 * sums.both) + s_m_squared
        return _Part(sums, (q * q - m_squared) / 2, variances)

    def _moments(self, parts: dict[int, _Part]) -> tuple[F64, F64]:
        """Return the means and the variances of the logits."""
        logits = self._design.scores(self.weights)
        variance = self._design.scores(self._variances, squared=True)
        for part in parts.values():
            logits += part.means
            variance += part.variances
        return logits, np.maximum(variance, 0)

    def _improve_weights(self, bend: F64, residual: F64) -> None:
        """Take Newton's step of the linear weights, and update ``residual``."""
        design, groups = self._design, self._groups
        curvature = design.transposed(bend, squared=True)
        estimated = estimated_shrinkage(self.weights, curvature, self._shrinkage[groups], groups)
        self._shrinkage[:-1] = estimated[:-1]
        penalty = self._shrinkage[groups]
        gradient = penalty * self.weights - design.transposed(residual)
        diagonal = curvature + penalty + 1e-9
        step = conjugate_gradients(design, bend, penalty, gradient, diagonal)
        self.weights = self.weights - step
        self._variances = 1 / diagonal
        residual += bend * design.scores(step)

    def _improve_factor(self, k: int, sums: _Sums, bend: F64, residual: F64, shrinks: bool) -> None:
        """Give every table's means and variances of a factor their best values in turn."""
        means, variances, shrinkage = (values[k] for values in self.factors)
        curvatures = np.zeros_like(means)
        for s, (table, rows) in enumerate(zip(self._tables, self._rows, strict=True)):
            curvatures[rows] = _improve_table(
                table, means[rows], variances[rows], shrinkage[s], sums, bend, residual
            )
        if shrinks:
            groups = np.repeat(np.arange(len(shrinkage)), self._design.table_rows)
            shrinkage[:] = estimated_shrinkage(means, curvatures, shrinkage[groups], groups)


def _improve_table(
    table: Lookups,
    means: F64,
    variances: F64,
    shrinkage: float,
    sums: _Sums,
    bend: F64,
    residual: F64,
) -> F64:
    """Change a table's part of a factor, the sums and the residual; return the curvature.

    With h the sum of the other tables' vectors, a row's logit has the slope h. Its square has the
    mean h^2 + t, where t is the variance of h, which is also correlated with the other tables'
    products.
    """
    m, s = table.spread(means), table.spread(variances, squared=True)
    h, t = sums.means - m, sums.variances - s
    correlation = h * t - (sums.both - s * m)
    slope, slack = bend * h * h, table.collect(bend * t, squared=True) + shrinkage
    gradient = table.collect(h * residual - bend * correlation) - slack * means
    curvature = table.collect(slope, squared=True) + slack
    step = gradient / (table.bound(slope) + slack)
    means += step
    variances[:] = 1 / curvature
    change, s_now = table.spread(step), table.spread(variances, squared=True)
    residual -= bend * change * h
    sums.means += change
    sums.variances += s_now - s
    sums.both += s_now * (m + change) - s * m
    return curvature - shrinkage


def _bend(size: F64) -> F64:
    """Return the curvature of the bound that touches the logistic loss at +- ``size``."""
    some = np.maximum(size, 1e-6)
    curvature: F64 = np.tanh(some / 2) / (2 * some)
    return curvature
