"""The operations of a model on a batch, recorded on a tape once per batch size and replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from dlrmjit.autograd.tape import Parameter, Tape, Variable
from dlrmjit.config.training import LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import ShapeError
from dlrmjit.model.batch_norm import Norm
from dlrmjit.ops.backend import Features
from dlrmjit.perf.profile import Profile

if TYPE_CHECKING:
    from dlrmjit.model.dlrm import DLRM

_MOST_GRAPHS = 4
G = TypeVar("G")


class Graph:
    """The operations of one model on batches of n samples, recorded once and replayed.

    The tape ends in the logits, or in ``loss`` if one is given; then hidden layers use dropout, for
    which ``dropout_key`` is a seed and a step, and are normalised by the batch. The loss is a mean
    over ``samples``, by default n; it is larger if n samples are a part of a batch. A ``profile``
    times every rule.
    """

    def __init__(
        self,
        model: DLRM,
        n: int,
        loss: LossConfig | None = None,
        samples: int | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.model = model
        config, backend = model.config, model.backend
        self.rules = profile.rules(backend.rules) if profile else backend.rules
        rules = self.rules
        self.tape = Tape()
        self.dense, self.lookups, self.targets = Variable(), Variable(), Variable()
        self.dropout_key = Variable((0, 0))
        self._training, self._dropout_layers = loss is not None, 0
        buffers = backend.features(n, config.features, config.embedding_dim, config.has_dense)
        vectors = [self._record_bottom(buffers)] if config.has_dense else []
        pooled = self._record_projected(self._record_pooled(buffers))
        joined = self.tape.record(
            rules["interaction"],
            *vectors,
            pooled,
            kind=config.interaction,
            itself=config.interaction_itself,
            buffers=buffers,
            label="interaction",
        )
        make_gradient = buffers.joined_gradient if config.interaction == "cat" else None
        self.logits = self._record_mlp(
            joined, model.top, model.top_norms, "top", last="none", input_gradient=make_gradient
        )
        self.loss = self.logits
        if loss is not None:
            self.loss = self.tape.record(
                rules["loss"], self.logits, self.targets, loss=loss, samples=samples
            )

    def _record_bottom(self, buffers: Features) -> Variable:
        model = self.model
        parameters, norms = model.bottom, model.bottom_norms
        return self._record_mlp(
            self.dense, parameters, norms, "bottom", last="relu", out=buffers.dense
        )

    def _record_mlp(
        self,
        x: Variable,
        parameters: tuple[Parameter, ...],
        norms: tuple[Norm, ...],
        label: str,
        *,
        last: str,
        out: Any = None,
        input_gradient: Any = None,
    ) -> Variable:
        """Record an MLP: one operation, or several per hidden layer with dropout or batch norm."""
        rule, hidden = self.rules["mlp"], len(parameters) // 2 - 1
        first = 0
        if norms or (self._training and self.model.config.dropout):
            first = hidden
        for i in range(first):
            layer, activation = parameters[2 * i : 2 * i + 2], "none" if norms else "relu"
            make_gradient = input_gradient if i == 0 else None
            x = self.tape.record(
                rule,
                x,
                *layer,
                activations=(activation,),
                input_gradient=make_gradient,
                label=label,
            )
            x = self._record_regularised(x, norms[i] if norms else None)
        return self.tape.record(
            rule,
            x,
            *parameters[2 * first :],
            activations=("relu",) * (hidden - first) + (last,),
            out=out,
            input_gradient=None if first else input_gradient,
            label=label,
        )

    def _record_regularised(self, x: Variable, norm: Norm | None) -> Variable:
        config, training = self.model.config, self._training
        if norm is not None:
            rule, running = self.rules["batch_norm"], norm.running
            x = self.tape.record(rule, x, norm.gamma, norm.beta, running=running, training=training)
        if not (training and config.dropout):
            return x
        self._dropout_layers += 1
        rule = self.rules["dropout"]
        return self.tape.record(
            rule, x, self.dropout_key, rate=config.dropout, layer=self._dropout_layers
        )

    def _record_pooled(self, buffers: Features) -> Variable:
        """Record the pooled embeddings; graphs of sharded models fetch them from other ranks."""
        bag = self.rules["embedding_bag"]
        return self.tape.record(
            bag, self.model.tables, self.lookups, out=buffers.pooled, label="embedding"
        )

    def _record_projected(self, pooled: Variable) -> Variable:
        """Record the projections to width E of tables that are narrower."""
        projections = self.model.projections
        if not projections:
            return pooled
        rule, tables = self.rules["projection"], tuple(projections)
        return self.tape.record(rule, pooled, *projections.values(), tables=tables)

    def load(self, batch: Batch) -> None:
        """Make ``batch`` the input of the next replay.

        Raises ShapeError for another number of dense features or tables than the model has.
        """
        config = self.model.config
        if batch.dense.shape[1] != config.dense_features:
            raise ShapeError(
                f"the batch has {batch.dense.shape[1]} dense features, the model "
                f"{config.dense_features}"
            )
        if batch.tables != config.tables:
            raise ShapeError(
                f"the batch has lookups for {batch.tables} tables, the model has {config.tables}"
            )
        self._load_lookups(batch)
        if config.has_dense:
            self.dense.data = self.model.backend.refill(self.dense.data, batch.dense)
        self.targets.data = batch.labels

    def _load_lookups(self, batch: Batch) -> None:
        backend, tables = self.model.backend, self.model.tables.data
        self.lookups.data = backend.lookups(tables, batch.indices, batch.offsets)


def cache_graph(graphs: dict[int, G], n: int, graph: G) -> None:
    """Add the graph of batches of ``n`` samples; drop the oldest if there are too many."""
    graphs[n] = graph
    if len(graphs) > _MOST_GRAPHS:
        del graphs[next(iter(graphs))]
