"""The operations of a model on a batch, recorded on a tape once per batch size and replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlrmjit.architecture.node import Node, Shape
from dlrmjit.architecture.nodes.embedding import Embedding
from dlrmjit.autograd.tape import Rule, Tape, Variable
from dlrmjit.config.list_loss import ListLoss
from dlrmjit.config.training import CustomLoss, LossConfig
from dlrmjit.data.batch import Batch
from dlrmjit.data.list_batch import count_of_lists, lists_of, offsets_of
from dlrmjit.errors import CheckpointError, ShapeError
from dlrmjit.model.batch_norm import Norm
from dlrmjit.model.tables import Port
from dlrmjit.ops.backend import Block
from dlrmjit.ops.random_masks import DropoutKey
from dlrmjit.perf.profile import Profile

if TYPE_CHECKING:
    from dlrmjit.model.model import Model

_MOST_GRAPHS = 4
G = TypeVar("G")
K = TypeVar("K", bound=Hashable)


class Graph:
    """The operations of one model on batches of n samples, recorded once and replayed.

    The tape ends in the probabilities of the logits, or in ``loss`` if one is given; then hidden
    layers use dropout, for which ``dropout_key`` is a seed and a step, and are normalised by the
    batch. The loss is a mean over ``samples``, by default n; it is larger if n samples are a part
    of a batch, of which ``part`` says how it is normalised. A ``profile`` times every rule. A
    ``port`` provides the pooled vectors, by default the model's store. A loss of lists is a mean
    over those of a :class:`~dlrmjit.data.list_batch.ListBatch`.
    """

    def __init__(
        self,
        model: Model,
        n: int,
        loss: LossConfig | ListLoss | None = None,
        samples: int | None = None,
        profile: Profile | None = None,
        port: Port | None = None,
        part: BatchPart | None = None,
    ) -> None:
        if model.undecided:
            raise CheckpointError(model.undecided)
        if loss is not None and not (n if samples is None else samples):
            raise ShapeError("a batch without samples has no loss; train on at least one")
        self.model, self.n, self.training = model, n, loss is not None
        self.profile = profile
        self.tape = Tape(model.backend.add_gradients, model.backend.joiner)
        self.dense, self.targets, self.sample_weights = Variable(), Variable(), Variable()
        self.lists, self.list_count = Variable(), Variable()
        self._has_list_loss = isinstance(loss, ListLoss)
        self.dropout_key, self.dropout_layers = Variable(DropoutKey()), 0
        self.part, self.shared_norms = part, list[SharedNorm]()
        self.port = port or model.store.port(n)
        self.nodes = self.recorded_nodes()
        recorded = (node for node in self.nodes if self.is_recorded(node.name))
        self._needs_lists = any(node.needs_lists for node in recorded)
        self.values: dict[str, Variable] = {}
        self._record_nodes()
        output = model.architecture.output
        self.logits = self.loss = self.probabilities = self.values[output]
        if isinstance(loss, ListLoss):
            rule = self.timed(model.backend.rules["list_loss"])
            inputs = (self.logits, self.targets, self.lists, self.list_count)
            self.loss = self.tape.record(rule, *inputs, loss=loss)
        elif loss is not None:
            name = "custom_loss" if isinstance(loss, CustomLoss) else "loss"
            rule = self.timed(model.backend.rules[name])
            self.loss = self.tape.record(
                rule,
                self.logits,
                self.targets,
                self.sample_weights,
                loss=loss,
                samples=samples,
            )
        elif self.is_recorded(output):
            rule = model.backend.rules["probabilities"]
            self.probabilities = self.tape.record(rule, self.logits)

    def _record_nodes(self) -> None:
        blocks, outs = self._buffers()
        for node in self.nodes:
            if not self.is_recorded(node.name):
                self.values[node.name] = Variable()
                continue
            recording = NodeRecording(self, node)
            recording.block, recording.out = blocks.get(node.name), outs.get(node.name)
            consumer = self.model.architecture.only_consumer(node.name)
            recording.summed = consumer is not None and consumer.sums_vectors
            recording.has_totals = any(name in self.port.totals for name in node.inputs)
            recording.input_gradient = self._input_gradient(node, blocks)
            recording.products = self.products_of(recording)
            self.values[node.name] = node.record(recording)

    def recorded_nodes(self) -> tuple[Node, ...]:
        """Return the nodes in their order; those of a subclass may have fewer inputs."""
        return self.model.architecture.nodes

    def is_recorded(self, name: str) -> bool:
        """Return whether a node is computed here; a subclass may be given some results."""
        return True

    def shape_of(self, name: str) -> Shape:
        """Return the shape of one sample of a node's result."""
        return self.model.architecture.shapes[name]

    def products_of(self, recording: NodeRecording) -> Variable | None:
        """Return products that are a part of the result of a node's first layer, if there are."""
        return None

    def _buffers(self) -> tuple[dict[str, Block], dict[str, Any]]:
        """Return the block of every node that joins its inputs, and where results are written."""
        architecture, backend = self.model.architecture, self.model.backend
        fills = {node.name: node for node in self.nodes if node.fills_block}
        blocks, outs = dict[str, Block](), dict[str, Any]()
        for node in self.nodes:
            if node.joins and node.inputs:
                block = blocks[node.name] = backend.block(self.n, architecture.input_shapes(node))
                for name, part in zip(node.inputs, block.parts, strict=True):
                    if name in fills:
                        outs.setdefault(name, part)
        for name in fills:
            shape, consumers = architecture.shapes[name], architecture.consumers(name)
            if len(shape) == 1 and not all(node.any_layout for node in consumers):
                outs.setdefault(name, backend.rows(self.n, shape[0]))
        return blocks, outs

    def _input_gradient(self, node: Node, blocks: dict[str, Block]) -> Callable[[], Any] | None:
        """Return what makes the gradient of the only input, if that must be stored in rows."""
        if len(node.inputs) != 1:
            return None
        architecture, backend = self.model.architecture, self.model.backend
        source, shape = architecture.node(node.inputs[0]), self.shape_of(node.inputs[0])
        if source.any_layout or len(shape) != 1:
            return None
        if source.name in blocks and len(architecture.consumers(source.name)) == 1:
            return blocks[source.name].joined_gradient
        return partial(backend.rows, self.n, shape[0])

    def timed(self, rule: Rule) -> Rule:
        """Return the rule, timed if there is a profile."""
        return self.profile.rules({"": rule})[""] if self.profile else rule

    def load(self, batch: Batch) -> None:
        """Set the batch of the next replay.

        Raises ShapeError for a batch of another number of dense features or tables, or one without
        lists if the model or the loss needs them, and DataError for relevances that such a loss
        cannot use.
        """
        architecture = self.model.architecture
        features = architecture.dense_features
        if batch.dense.shape[1] != features:
            raise ShapeError(
                f"the batch has {batch.dense.shape[1]} dense features, the model {features}"
            )
        if batch.tables != architecture.tables:
            raise ShapeError(
                f"the batch has lookups for {batch.tables} tables, the model has "
                f"{architecture.tables}"
            )
        batch.check_shapes()
        if self._has_list_loss:
            self.lists.data = lists_of(batch)
            self.list_count.data = count_of_lists(batch)
        elif self._needs_lists:
            self.lists.data = offsets_of(batch, "this model")
        self.port.load(batch)
        if features:
            self.dense.data = self.model.backend.refill(self.dense.data, batch.dense)
        self.targets.data, self.sample_weights.data = batch.labels, batch.sample_weights

    def predictions(self, threshold: float = 0.0) -> NDArray[np.float32]:
        """Return a copy of the probabilities (N,), clamped to [threshold, 1 - threshold]."""
        p: NDArray[np.float32] = self.probabilities.data
        return p.clip(threshold, 1 - threshold) if 0 < threshold < 1 else p.copy()

    def scores(self) -> NDArray[np.float32]:
        """Return a copy of the logits (N,)."""
        logits: NDArray[np.float32] = self.model.backend.to_numpy(self.logits.data)
        return logits.reshape(-1)


class BatchPart(NamedTuple):
    """A graph has a part of a batch, whose moments normalise it; other graphs have other parts.

    One of the graphs of a process ``averages`` the moments.
    """

    averages: bool = True


class SharedNorm(NamedTuple):
    """A batch normalisation of a part of a batch.

    After the first ``steps`` of the tape, ``moments`` are those of the part, and must become those
    of the batch; in the backward pass ``sums`` alike.
    """

    steps: int
    moments: Variable
    sums: Variable


class NodeRecording:
    """One node while it is recorded, see :class:`~dlrmjit.architecture.node.Recording`."""

    block: Any = None
    out: Any = None
    input_gradient: Any = None
    summed: bool = False
    has_totals: bool = False
    products: Variable | None = None

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node
        self.n, self.training, self.dense = graph.n, graph.training, graph.dense
        self.lists = graph.lists
        self.inputs = tuple(graph.values[name] for name in node.inputs)
        self.shapes = tuple(map(graph.shape_of, node.inputs))

    def parameter(self, name: str) -> Variable:
        """Return the node's parameter ``name``."""
        return self.graph.model.dense[f"{self.node.name}.{name}"]

    def norm(self, name: str) -> Norm:
        """Return the node's batch normalisation ``name``."""
        return self.graph.model.norms[f"{self.node.name}.{name}"]

    def pooled(self) -> Variable:
        """Return the pooled vectors of the node's tables."""
        assert isinstance(self.node, Embedding)  # no other kind asks for them
        return self.graph.port.record(self, self.node)

    def apply(self, rule: str, *inputs: Variable, label: str = "", **options: Any) -> Variable:
        """Record a rule of the backend under the node's label."""
        return self.record(self.graph.model.backend.rules[rule], *inputs, label=label, **options)

    def record(self, rule: Rule, *inputs: Variable, label: str = "", **options: Any) -> Variable:
        """Record any rule under the node's label."""
        rule = self.graph.timed(rule)
        return self.graph.tape.record(rule, *inputs, label=label or self.node.label, **options)

    def apply_arrays(self, forward: Any, backward: Any, *inputs: Variable) -> Variable:
        """Record a rule of two NumPy functions."""
        rule = self.graph.model.backend.array_rule(forward, backward)
        return self.record(rule, *inputs)

    def batch_norm(
        self, x: Variable, name: str, activation: str, residual: Variable | None = None
    ) -> Variable:
        """Normalise ``x`` by the moments of the batch in training, else by their averages.

        A ``residual`` is added before the activation.
        """
        norm, graph = self.norm(name), self.graph
        added = () if residual is None else (residual,)
        apply = partial(self.apply, label="batch_norm", activation=activation, residual=bool(added))
        if not self.training:
            return apply("batch_norm", x, norm.gamma, norm.beta, *added, running=norm.running)
        moments = self.apply("batch_moments", x, label="batch_norm")
        moments.requires_grad = False  # the gradient through them is part of the next rule's
        sums, part = Variable(name="sums", requires_grad=graph.part is not None), graph.part
        if part is not None:
            graph.shared_norms.append(SharedNorm(len(graph.tape.steps), moments, sums))
        running = norm.running if part is None or part.averages else None
        own = norm.gamma, norm.beta, moments, sums
        return apply("batch_norm", x, *own, *added, running=running)

    def dropout(self, x: Variable, rate: float) -> Variable:
        """Record dropout, with masks of its own for every application."""
        self.graph.dropout_layers += 1
        layer, key = self.graph.dropout_layers, self.graph.dropout_key
        return self.apply("dropout", x, key, rate=rate, layer=layer, label="dropout")


def cache_graph(graphs: dict[K, G], size: K, graph: G) -> None:
    """Add the graph of batches of some size; drop the oldest if there are too many."""
    graphs[size] = graph
    if len(graphs) > _MOST_GRAPHS:
        del graphs[next(iter(graphs))]
