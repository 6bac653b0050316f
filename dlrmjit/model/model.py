"""A model: the parameters of an architecture, their initial values, and predictions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from dlrmjit_kernels.runtime.access import Access
from numpy.typing import NDArray

from dlrmjit.architecture.node import ParameterSpec
from dlrmjit.autograd.tape import Parameter
from dlrmjit.config.model import (
    IN_MEMORY,
    AnyModelConfig,
    TableConfig,
)
from dlrmjit.data.batch import Batch
from dlrmjit.errors import CheckpointError, ConfigError, MemoryLimitError
from dlrmjit.model.batch_norm import Norm
from dlrmjit.model.description import describe, html_table
from dlrmjit.model.graph import Graph
from dlrmjit.model.graph_pool import GraphPool
from dlrmjit.model.scoring import score_chunks
from dlrmjit.model.tables import LocalTables, MakeStore, TableStore
from dlrmjit.model.torch_rng import TorchStream
from dlrmjit.model.views import WeightView
from dlrmjit.ops import get_backend
from dlrmjit.ops.backend import Backend, FloatArray, StoredArray
from dlrmjit.precision import Precision, SplitArray, check_precision, to_precision

if TYPE_CHECKING:
    from dlrmjit.data.prepared.preprocessing import Preprocessing

_SCALED_AT_ONCE = 1 << 20  # elements
INITS = ("reference", "counter")
"""Ways to initialise tables."""
_NOT_COPIED = ("_graphs", "_specs", "_is_private")
M = TypeVar("M", bound="Model")
T = TypeVar("T")


class Model:
    """A recommendation model with the nodes of an architecture.

    ``preprocessing`` is None, or the rules by which raw rows become its inputs: training from a
    prepared set and loading a model that was trained so set it, saving stores it.

    Any threads may predict at once. Changes wait for predictions and predictions for changes; while
    ``fit`` trains the model in one thread, others that use it get a ConcurrencyError.
    ``copy.deepcopy``, ``pickle`` and ``joblib`` make an independent model of the same parameters,
    whose tables are where these are: in memory, or in unnamed files of the same directory.

    Parameters
    ----------
    config : an :class:`~dlrmjit.architecture.Architecture`, or a ``ModelConfig`` of a DLRM
    backend : ``jit``, ``reference`` or a backend object; by default ``DLRMJIT_BACKEND``
    rng : source of the initial parameters, drawn in the order of the reference program: tables,
        then the nodes in order. By default ``RandomState(123)``, the reference's seed
    initialise : whether to draw parameters now; otherwise they are zero
    init : ``reference`` draws tables from ``rng`` number by number; ``counter`` draws one seed from
        it, and any part of any table from that: in parallel, and on any rank
    precision : ``fp32``, or ``bf16``: tables and weights are Split-BF16, of which forward and
        backward read the high bits and optimizers all, see :mod:`dlrmjit.precision`
    tables : where the tables are stored, and how an index outside them is handled
    seed : seed of projections, which the reference program draws from PyTorch's generator
    make_store : makes the store of the tables, if it is not this process's

    Raises
    ------
    ConfigError
        For an unknown backend, precision or ``init``.
    MemoryLimitError
        When the parameters do not fit into this machine; nothing is allocated then.
    """

    def __init__(
        self,
        config: AnyModelConfig,
        *,
        backend: str | Backend | None = None,
        rng: np.random.RandomState | None = None,
        initialise: bool = True,
        init: str = "reference",
        precision: Precision = "fp32",
        tables: TableConfig = IN_MEMORY,
        seed: int = 123,
        make_store: MakeStore | None = None,
    ) -> None:
        check_precision(precision)
        self.config, self.precision, self.init = config, precision, _checked_init(init)
        self.preprocessing: Preprocessing | None = None
        self.architecture = config.architecture
        self.backend = get_backend(backend)
        make_store = make_store or partial(LocalTables, config=tables)
        self.store: TableStore = make_store(self.architecture, self.backend, precision)
        self._specs = self._parameter_specs()
        self.dense = {name: self._make(name, spec) for name, spec in self._specs.items()}
        dtype = self.backend.dtype
        self.norms = {
            f"{node.name}.{norm.name}": Norm(f"{node.name}.{norm.name}", norm.columns, dtype)
            for node in self.architecture.nodes
            for norm in node.norms()
        }
        self.undecided = ""  # why this model cannot compute, if its file left something open
        self.access = Access("this model")
        self._graphs: GraphPool[Graph] = GraphPool()
        if initialise:
            self.initialise(rng or np.random.RandomState(123), seed)

    def _parameter_specs(self) -> dict[str, ParameterSpec]:
        """Return the dense parameters by name: those of embeddings, then those of other nodes."""
        embeddings = self.architecture.embeddings
        others = (node for node in self.architecture.nodes if node not in embeddings)
        return {
            f"{node.name}.{spec.name}": spec
            for node in (*embeddings, *others)
            for spec in self.architecture.parameters_of(node)
        }

    def _make(self, name: str, spec: ParameterSpec) -> Parameter:
        try:
            if len(spec.shape) == 1:
                return Parameter(np.zeros(spec.shape, self.backend.dtype), name)
            weight = self.backend.weight(np.zeros(spec.shape, np.float32), self.precision)
        except (MemoryError, ValueError):  # ValueError: beyond what an array can have
            raise MemoryLimitError(
                f"{name} of shape {spec.shape} does not fit into memory; make the layer smaller"
            ) from None
        return Parameter(weight, name)

    def initialise(self, rng: np.random.RandomState, seed: int = 123) -> None:
        """Redraw all parameters from ``rng``, in the order of the reference program.

        Projections of tables are drawn as by PyTorch with ``seed`` instead.
        """
        with self.access.writing():
            self._initialise(rng, seed)

    def _initialise(self, rng: np.random.RandomState, seed: int) -> None:
        if self.init == "counter":
            self.store.init_from_counter(int(rng.randint(0, 2**63, dtype=np.int64)))
        else:
            self.store.init_from_rng(rng, TorchStream(seed))
        projections = self._draw_projections(TorchStream(seed))
        for name, spec in self._specs.items():
            if name not in projections:
                values = spec.draw(rng)
                self._assign(name, values.astype(np.float32) if values.ndim > 1 else values)
        for norm in self.norms.values():
            norm.reset()

    def _draw_projections(self, stream: TorchStream) -> set[str]:
        """Draw as the reference does: PyTorch first draws tables that NumPy then overwrites.

        Returns the names of the projections.
        """
        drawn = set()
        for node in self.architecture.embeddings:
            for s, (rows, dim) in enumerate(zip(node.rows, node.widths, strict=True)):
                if node.projections:  # otherwise nothing is drawn after the tables
                    stream.skip_normal(rows * dim)
                    stream.skip_uniform(rows * dim)
                if s in node.projections:
                    stream.skip_uniform(node.dim * dim)
                    name = f"{node.name}.{s}.proj.weight"
                    self._assign(name, stream.xavier_uniform(node.dim, dim))
                    drawn.add(name)
        return drawn

    def _assign(self, name: str, values: StoredArray) -> None:
        parameter, array = self.dense[name], np.asarray(values)
        if array.ndim == 1:
            parameter.data[...] = array
        else:
            self.backend.assign_weight(parameter.data, array)

    def scale_tables(self, factor: float) -> None:
        """Multiply all embedding tables by ``factor``, to scale their initial values.

        Raises ConfigError for a model with dynamic ids, of which rows start later.
        """
        if self.store.dynamic is not None:
            raise ConfigError("initial values of dynamic rows, which start later, are not scaled")
        with self.access.writing():
            for values in self.store.values():
                step = max(1, _SCALED_AT_ONCE // values.shape[1])
                for first in range(0, len(values), step):
                    part = np.asarray(values[first : first + step])
                    values[first : first + step] = part * part.dtype.type(factor)

    @property
    def dense_elements(self) -> int:
        """Number of elements of all parameters but the tables."""
        norms = [2 * len(norm.running.mean) for norm in self.norms.values()]
        return sum(norms) + sum(math.prod(spec.shape) for spec in self._specs.values())

    def parameters(self) -> tuple[Parameter, ...]:
        """Return all parameters of this process: tables, then the dense ones."""
        return (*self.store.parameters(), *self.dense_parameters())

    def dense_parameters(self) -> tuple[Parameter, ...]:
        """Return projections, then the other nodes' parameters, then normalisations."""
        norms = (p for norm in self.norms.values() for p in (norm.gamma, norm.beta))
        return (*self.dense.values(), *norms)

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Return all parameters by name, those of a DLRM named as by the reference program.

        By default float arrays, which are copies and all of one moment. With ``copy=False`` no
        element is copied: arrays, or objects that ``np.asarray`` reads, show the parameters at the
        time they are read, and assigning to ``[...]`` changes the model.

        Table s of a node is ``<node>.s.weight``, of a DLRM ``emb_l.s.weight``, although the
        reference has ``emb_l.s.embs.weight`` with mixed dimensions; projections (E, d) are
        ``<node>.s.proj.weight``; weights are (K, C), biases (K,).
        """
        if not copy:
            return self._views()
        with self.access.reading():
            return {name: np.array(array) for name, array in self.stored().items()}

    def _views(self) -> dict[str, Any]:
        dense: dict[str, Any] = {
            name: data
            if isinstance(data := parameter.data, (np.ndarray, SplitArray))
            else WeightView(self.backend, data)
            for name, parameter in self.dense.items()
        }
        for norm in self.norms.values():
            dense.update(norm.arrays())
        return self._in_order(self.store.stored(), dense)

    def stored(self) -> dict[str, StoredArray]:
        """Return all parameters as they are saved: views of the tables, copies of the others.

        Split-BF16 stays Split-BF16. Names are those of :meth:`state_dict`.
        """
        return self._in_order(self.store.stored(), self.dense_state())

    def _in_order(self, tables: Mapping[str, Any], dense: dict[str, Any]) -> dict[str, Any]:
        """Return tables, each followed by its projection, then the other parameters."""
        state = {}
        for name, table in tables.items():
            state[name] = table
            projection = name.removesuffix("weight") + "proj.weight"
            if projection in dense:
                state[projection] = dense.pop(projection)
        return state | dense

    def dense_state(self) -> dict[str, StoredArray]:
        """Return copies of all parameters but the tables, as in :meth:`stored`."""
        state = {name: self._copy(parameter) for name, parameter in self.dense.items()}
        for norm in self.norms.values():
            state.update(norm.state())
        return state

    def _copy(self, parameter: Parameter) -> StoredArray:
        data: Any = parameter.data
        if len(self._specs[parameter.name].shape) == 1:
            vector: FloatArray = data.copy()
            return vector
        return to_precision(self.precision, self.backend.weight_to_numpy(data))

    def load_state(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all parameters from arrays named and shaped as in :meth:`state_dict`.

        Raises CheckpointError naming the first parameter that is missing or has another shape,
        before any parameter is changed.
        """
        with self.access.writing():
            self._check_shapes(state)
            self.store.load(state)
            self.load_dense(state)

    def _check_shapes(self, state: Mapping[str, StoredArray]) -> None:
        found = {name: tuple(array.shape) for name, array in state.items()}
        for name, wanted in self.shapes_for(found).items():
            if name not in state:
                raise CheckpointError(f"the checkpoint lacks parameter {name}")
            if found[name] != wanted:
                raise CheckpointError(
                    f"{name} has shape {found[name]} in the checkpoint, but this model needs "
                    f"{wanted}"
                )

    def shapes_for(self, stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all parameters, and of dynamic ids as many as stored arrays have.

        Raises CheckpointError for more ids than there are rows.
        """
        shapes = {name: tuple(array.shape) for name, array in self.stored().items()}
        dynamic = self.store.dynamic
        return shapes if dynamic is None else dynamic.shapes_in(shapes, stored)

    def load_dense(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all parameters but the tables; shapes must be those of the model."""
        for name in self.dense:
            self._assign(name, np.asarray(state[name]))
        for norm in self.norms.values():
            norm.load(state)

    def predict(self, rows: Any, *, batch_size: int = 4096) -> NDArray[np.float32]:
        """Return predicted probabilities (N,) of raw rows, in their order.

        They need the columns of the training data, except for the label. Values that the
        vocabularies lack count as unknown; :meth:`unknown_values` counts them.

        Parameters
        ----------
        rows : a list of mappings, a pandas or polars DataFrame, an Arrow table, or the path of a
            file in a format of the training data
        batch_size : rows to score at a time; scores do not depend on it

        Raises
        ------
        ConfigError
            For a model that was not trained from a prepared set, and for rows of another type.
        DataError
            For a column that is not there and a value that cannot be read, by name.
        """
        from dlrmjit.data.prepare.inputs.base import Wanted
        from dlrmjit.data.prepared.open_rows import encode_any

        chunks = encode_any(rows, self._rules_of_rows(), Wanted(labels=False))
        parts = [scores for _, scores in score_chunks(self, chunks, batch_size)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def unknown_values(self, rows: Any) -> dict[str, int]:
        """Return how many values of each column of raw rows are not in its vocabulary.

        ``rows`` and errors are those of :meth:`predict`.
        """
        from dlrmjit.data.prepared.open_rows import unknown_values

        return unknown_values(self._rules_of_rows(), rows)

    def _rules_of_rows(self) -> Preprocessing:
        """Return the preprocessing; raises ConfigError for a model that has none."""
        if self.preprocessing is None:
            raise ConfigError(
                "the model has no schema and no vocabularies, because it was not trained from a "
                "prepared set of text or Parquet; encode the rows and use predict_proba"
            )
        return self.preprocessing

    def predict_proba(self, batch: Batch, *, threshold: float = 0.0) -> NDArray[np.float32]:
        """Return predicted probabilities (N,), clamped to [threshold, 1 - threshold].

        Raises
        ------
        IndexRangeError
            For a lookup outside its table, if the tables' bounds are ``raise``.
        ShapeError
            For a batch of another number of dense features or tables, or one without lists if the
            model scores lists.
        """
        return self._predict(batch, lambda graph: graph.predictions(threshold))

    def scores(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits (N,), float32, by which the rows of a list are ordered.

        Their order is that of the probabilities, of which those near 0 and 1 may be rounded to one
        number. Raises as :meth:`predict_proba` does.
        """
        return self._predict(batch, Graph.scores)

    def predict_both(
        self, batch: Batch, *, threshold: float = 0.0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what :meth:`predict_proba` and :meth:`scores` return, after one forward pass."""
        return self._predict(batch, lambda graph: (graph.predictions(threshold), graph.scores()))

    def _predict(self, batch: Batch, result: Callable[[Graph], T]) -> T:
        """Return what ``result`` copies from the graph of a batch."""
        record = partial(Graph, self, batch.n)
        with self.access.reading(), self._graphs.leased(batch.n, record) as graph:
            graph.load(batch)
            with self.backend.flush_denormals():  # as in training
                graph.tape.forward()
            return result(graph)

    def __deepcopy__(self: M, memo: dict[int, Any]) -> M:
        made = memo[id(self)] = type(self).__new__(type(self))
        with self.access.reading():
            made.__setstate__(copy.deepcopy(self._attributes(), memo))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: a copy, because the model may change before it is written."""
        if "_is_private" in vars(self):
            return self._attributes()
        with self.access.reading():
            return copy.deepcopy(self._attributes())

    def private_copy(self: M, memo: dict[int, Any]) -> M:
        """Return a copy that nothing else uses, so that it is pickled as it is."""
        made = copy.deepcopy(self, memo)
        made.__dict__["_is_private"] = True
        return made

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._specs = self._parameter_specs()
        self._graphs = GraphPool()
        for parameter in self.dense_parameters():
            parameter.data = _writable(parameter.data)
        for norm in self.norms.values():
            norm.running.mean = _writable(norm.running.mean)
            norm.running.variance = _writable(norm.running.variance)

    def __copy__(self: M) -> M:
        """Return a model that shares the parameters."""
        made = type(self).__new__(type(self))
        made.__setstate__(self._attributes())
        return made

    def _attributes(self) -> dict[str, Any]:
        """Return what a copy is made of; graphs are bound to the addresses of this model."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_COPIED}

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        return html_table(self)


def _writable(stored: Any) -> Any:
    """Return an array, copied if it is a part of a file that is not to be written (joblib)."""
    is_fixed = isinstance(stored, np.ndarray) and not stored.flags.writeable
    return np.array(stored) if is_fixed else stored


def _checked_init(init: str) -> str:
    if init not in INITS:
        raise ConfigError(f"init must be one of {', '.join(INITS)}, not {init!r}")
    return init
