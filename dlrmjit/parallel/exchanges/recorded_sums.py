"""Look up rows of which a rank sends sums: of vectors, of their squares, of their products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from dlrmjit.autograd.tape import Parameter, Rule, Step, Tape, Variable
from dlrmjit.ops.backend import Backend, FloatArray, Lookups
from dlrmjit.ops.partial_sums import EXACT, GATHERED, exact_sums
from dlrmjit.parallel.exchanges.sums import Operator


def lookups_of_bags(lookups: Lookups) -> Lookups:
    """Return lookups whose indices and weights are only those of their bags."""
    indices, offsets, weights = lookups
    base, end = int(offsets[0, 0]), int(offsets[-1, -1])
    part = None if weights is None else weights[base:end]
    return Lookups(indices[base:end], offsets - base, part)


class RecordedSums:
    """The sums over the vectors of a group of ``shards`` tables, one result for each operator.

    ``weight`` (K, shards * W) has the columns of a first layer for these vectors. It is recorded
    once for batches of ``samples`` of all ranks; ``exact`` sums are in fixed point.
    """

    def __init__(
        self,
        backend: Backend,
        parameter: Parameter,
        operators: Sequence[Operator],
        *,
        vectors: tuple[int, int],
        samples: int,
        weight: Parameter | None = None,
        exact: bool = False,
    ) -> None:
        self._backend, self._parameter, self._exact = backend, parameter, exact
        self._operators, self._samples, self._weight = operators, samples, weight
        self._lookups, self._tape = Variable(), Tape(backend.add_gradients)
        self._block = backend.block(samples, [vectors]) if weight is not None else None
        self._gradients: dict[str, Any] = {}  # of products, in the same memory for every batch
        self._result = self._tape.record(_TOGETHER, *self._record())

    def _record(self) -> Iterator[Variable]:
        rules, tape, block = self._backend.rules, self._tape, self._block
        (operator, *others), out = self._operators, block.parts[0] if block else None
        is_summed = not others and operator.kind in GATHERED and not self._exact
        bags = rules["embedding_bag"]
        vectors = tape.record(bags, self._parameter, self._lookups, out=out, summed=is_summed)
        for operator in self._operators:
            if operator.layer is not None:
                yield self._products(vectors, operator.layer.outputs)
            else:
                rule = EXACT if self._exact else rules["partial_sums"]
                yield tape.record(rule, vectors, kind=operator.kind)

    def _products(self, vectors: Variable, outputs: int) -> Variable:
        backend, tape, block = self._backend, self._tape, self._block
        assert block is not None
        assert self._weight is not None
        joined = tape.record(backend.rules["concat"], vectors, block=block)
        no_bias = Variable(np.zeros(outputs, backend.dtype))
        return tape.record(
            backend.rules["mlp"],
            *(joined, self._weight, no_bias),
            activations=("none",),
            out=backend.rows(self._samples, outputs),
            input_gradient=block.joined_gradient,
        )

    def load(self, lookups: Lookups) -> None:
        """Set the lookups of the next replay; raises IndexRangeError for one outside its table."""
        self._lookups.data = self._backend.lookups(self._parameter.data, lookups_of_bags(lookups))

    def pool(self) -> Iterator[tuple[str, FloatArray]]:
        """Yield the key and the sums (N, W) of each operator; exact ones are (N, W + 1)."""
        self._tape.forward()
        for operator, sums in zip(self._operators, self._result.data, strict=True):
            if operator.layer is not None:
                products = self._backend.to_numpy(sums)
                sums = exact_sums(products[:, None], "sum") if self._exact else products
            yield operator.key, sums

    def gradients(self, packed: Sequence[FloatArray]) -> Iterator[tuple[Parameter, Any]]:
        """Yield the gradients of the tables and of the weight, all from their values of now.

        ``packed`` has one array (N, W) for each operator.
        """
        of_results = [
            self._gradient_of_products(operator.key, array) if operator.layer else array
            for operator, array in zip(self._operators, packed, strict=True)
        ]
        for parameter, gradient in list(self._tape.backward(self._result, of_results)):
            yield cast(Parameter, parameter), gradient

    def _gradient_of_products(self, key: str, array: FloatArray) -> Any:
        self._gradients[key] = self._backend.refill(self._gradients.get(key), array)
        return self._gradients[key]


def _together(step: Step) -> tuple[Any, ...]:
    return step.values


def _apart(step: Step, gradients: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    yield from enumerate(gradients)


_TOGETHER = Rule("together", _together, _apart)
"""Several results as one, whose gradient has one of each."""
