"""What determines the kernels of a training, and a dry run that notes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from dlrmjit_kernels.runtime.compile import Call, dry_run

from dlrmjit.architecture import Architecture
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.list_batch import ListBatch
from dlrmjit.data.source import index_dtype
from dlrmjit.model.graph import Graph
from dlrmjit.model.model import Model
from dlrmjit.precision import Precision
from dlrmjit.training.step import TrainingStep

_ROWS = 2  # of every table: kernels do not depend on them


@dataclass(frozen=True)
class Rehearsal:
    """A training step of ``samples`` samples, as far as its kernels depend on it."""

    architecture: Architecture
    samples: int
    update: UpdateConfig
    loss: LossConfig | ListLoss
    precision: Precision
    wide_indices: bool

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        samples: int,
        update: UpdateConfig,
        loss: LossConfig | ListLoss,
        precision: Precision,
    ) -> Rehearsal:
        """Return the rehearsal of a model with tables of any size."""
        is_dynamic = architecture.dynamic is not None  # ids are int64
        wide = is_dynamic or index_dtype(architecture.table_rows) is np.int64
        nodes = tuple(
            replace(node, rows=(_ROWS,) * len(node.rows)) if isinstance(node, Embedding) else node
            for node in architecture.nodes
        )
        update = replace(update, column_rates={})  # nor on rates, whose names data have
        return cls(Architecture(nodes), samples, update, loss, precision, wide)

    def kernels(self) -> list[Call]:
        """Return the functions that compile the kernels, in the order of their first use."""
        batch = self.batch()
        with dry_run() as noted:
            model = Model(
                self.architecture, backend="jit", initialise=False, precision=self.precision
            )
            TrainingStep(model, self.update, self.loss)(batch, 0.1)
            scoring = Graph(model, self.samples)
            scoring.load(batch)
            scoring.tape.forward()
        return list(noted.values())

    def batch(self) -> Batch:
        """Return a batch of this size with one lookup per bag, as one list."""
        tables, n = self.architecture.tables, self.samples
        rows = Batch(
            dense=np.zeros((n, self.architecture.dense_features), np.float32),
            indices=np.zeros(tables * n, np.int64 if self.wide_indices else np.int32),
            offsets=np.arange(tables * n + tables).reshape(tables, n + 1)
            - np.arange(tables)[:, None],
            labels=np.zeros(n, np.float32),
        )
        return ListBatch(rows, [0, n])
