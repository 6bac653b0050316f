"""The same embedding work in torch and FBGEMM: pooled lookups, backward and row update.

Peers allocate their own tables, and get the merged lookups in their preferred form, converted
before any timing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.support.embedding_cases import Batch, Case
from bench.support.harness import has_compiler, has_peer

LR = 1e-3
Peer = Callable[[Case, str, Sequence[Batch], int], Any]


class TorchBags:
    """``nn.EmbeddingBag`` per table with sparse gradients and the matching optimizer."""

    label = "torch"

    def __init__(self, case: Case, rule: str, batches: Sequence[Batch], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.label = f"torch {torch.__version__.split('+')[0]}"
        self.bags = [torch.nn.EmbeddingBag(m, case.E, mode="sum", sparse=True) for m in case.rows]
        parameters = [bag.weight for bag in self.bags]
        adagrad, sgd = torch.optim.Adagrad, torch.optim.SGD
        self.optimizer = sgd(parameters, LR) if rule == "sgd" else adagrad(parameters, LR)
        self.inputs = [self._inputs(batch, torch) for batch in batches]

    @staticmethod
    def _inputs(batch: Batch, torch: Any) -> list[tuple[Any, Any, Any]]:
        ends = batch.offsets[:, -1]
        return [
            (
                torch.from_numpy(batch.indices[o[0] : end]),
                torch.from_numpy(o[:-1] - o[0]),
                torch.from_numpy(np.ascontiguousarray(batch.dY[:, s])),
            )
            for s, (o, end) in enumerate(zip(batch.offsets, ends, strict=True))
        ]

    def assign(self, s: int, values: NDArray[np.float32]) -> None:
        """Overwrite a table."""
        self.bags[s].weight.data.numpy()[...] = values

    def table(self, s: int) -> NDArray[np.float32]:
        """A table's values."""
        return self.bags[s].weight.data.numpy()  # type: ignore[no-any-return]

    def forward(self, number: int) -> list[Any]:
        """Return the pooled rows of a batch, one tensor per table."""
        return self.pool(self.inputs[number])

    def pool(self, inputs: Sequence[tuple[Any, Any, Any]]) -> list[Any]:
        """Return the pooled rows of the indices and offsets of all tables."""
        return [bag(i, o) for bag, (i, o, _) in zip(self.bags, inputs, strict=True)]

    def infer(self, number: int) -> None:
        """Forward alone, without recording for a backward."""
        import torch

        with torch.no_grad():
            self.forward(number)

    def train(self, number: int) -> None:
        """Forward, backward and update."""
        import torch

        pooled = self.forward(number)
        torch.autograd.backward(pooled, [dY for _, _, dY in self.inputs[number]])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class CompiledBags(TorchBags):
    """The same with lookups, and their backward, by ``torch.compile``."""

    def __init__(self, case: Case, rule: str, batches: Sequence[Batch], threads: int) -> None:
        import torch

        super().__init__(case, rule, batches, threads)
        self.label = "torch.compile"
        self.pool = torch.compile(self.pool)  # type: ignore[method-assign]


class FbgemmBags:
    """FBGEMM's table-batched embeddings on the CPU, whose backward applies the optimizer."""

    label = "fbgemm"

    def __init__(self, case: Case, rule: str, batches: Sequence[Batch], threads: int) -> None:
        import fbgemm_gpu
        import torch
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        torch.set_num_threads(threads)
        self.label = f"fbgemm {fbgemm_gpu.__version__}"
        rowwise = EmbOptimType.EXACT_ROWWISE_ADAGRAD
        spec = (EmbeddingLocation.HOST, ComputeDevice.CPU)
        self.bags = SplitTableBatchedEmbeddingBagsCodegen(
            [(m, case.E, *spec) for m in case.rows],
            optimizer=EmbOptimType.EXACT_SGD if rule == "sgd" else rowwise,
            learning_rate=LR,
        )
        S = len(case.rows)
        self.inputs = [
            (
                torch.from_numpy(batch.indices),
                torch.from_numpy(np.append(batch.offsets[:, :-1], batch.offsets[-1, -1])),
                torch.from_numpy(batch.dY.reshape(case.N, S * case.E)),
            )
            for batch in batches
        ]

    def assign(self, s: int, values: NDArray[np.float32]) -> None:
        """Overwrite a table."""
        self.table(s)[...] = values

    def table(self, s: int) -> NDArray[np.float32]:
        """A table's values."""
        return self.bags.split_embedding_weights()[s].detach().numpy()  # type: ignore[no-any-return]

    def infer(self, number: int) -> None:
        """Forward alone."""
        indices, offsets, _ = self.inputs[number]
        self.bags(indices, offsets)

    def train(self, number: int) -> None:
        """Forward, and the backward that updates."""
        indices, offsets, dY = self.inputs[number]
        self.bags(indices, offsets).backward(dY)


def available(rule: str) -> list[Peer]:
    """Return the installed peers that have the optimizer."""
    peers: list[Peer] = []
    if has_peer("torch", "torch") and rule != "rowwise_adagrad":
        peers.append(TorchBags)
        if has_compiler("torch.compile"):
            peers.append(CompiledBags)
    if has_peer("FBGEMM", "torch", "fbgemm_gpu") and rule != "adagrad":
        peers.append(FbgemmBags)
    return peers
