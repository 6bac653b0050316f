"""The DLRM: its parameters, their initial values, and predictions.

Bottom MLP over the dense features, one embedding bag per table, their interaction, top MLP to
one logit (Naumov et al., arXiv 1906.00091). Without dense features there is no bottom MLP;
tables of width d < E are projected to E (Ginart et al., arXiv 1909.11810).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.autograd.tape import Parameter
from dlrmjit.config.model import IN_MEMORY, ModelConfig, TableConfig
from dlrmjit.data.batch import Batch
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.model.batch_norm import Norm
from dlrmjit.model.graph import Graph, cache_graph
from dlrmjit.model.torch_rng import TorchStream
from dlrmjit.ops import get_backend
from dlrmjit.ops.backend import Backend, FloatArray, Origin, StoredArray
from dlrmjit.precision import Precision, check_precision, to_precision

_INIT_CHUNK = 1 << 20  # elements drawn at a time, so that no large table is ever copied to float64
INITS = ("reference", "counter")
"""Ways to initialise tables."""


class DLRM:
    """A deep learning recommendation model.

    Parameters
    ----------
    config : the architecture
    backend : ``jit``, ``reference`` or a backend object; by default ``DLRMJIT_BACKEND``
    rng : source of the initial parameters, drawn in the order of the reference program: tables,
        bottom MLP, top MLP. By default ``RandomState(123)``, the reference's seed
    initialise : whether to draw parameters now; otherwise they are zero
    init : ``reference`` draws tables from ``rng`` number by number; ``counter`` draws one seed from
        it, and any part of any table from that: in parallel, and on any rank
    precision : ``fp32``, or ``bf16``: tables and weights are Split-BF16, of which forward and
        backward read the high bits and optimisers all, see :mod:`dlrmjit.precision`
    tables : where the tables are stored, and how an index outside them is handled
    seed : seed of projections, which the reference program draws from PyTorch's generator

    Raises
    ------
    ConfigError
        For an unknown backend, precision or ``init``.
    MemoryLimitError
        When the parameters do not fit into this machine; nothing is allocated then.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        backend: str | Backend | None = None,
        rng: np.random.RandomState | None = None,
        initialise: bool = True,
        init: str = "reference",
        precision: Precision = "fp32",
        tables: TableConfig = IN_MEMORY,
        seed: int = 123,
    ) -> None:
        check_precision(precision)
        self.config, self.precision, self.init = config, precision, _checked_init(init)
        self.table_config = tables
        self.backend = get_backend(backend)
        self.tables = Parameter(self._make_tables(), "emb_l", is_sparse=True)
        self.projections = {s: self._make_projection(s) for s in config.projections}
        self.bottom = self._make_mlp("bot_l", config.bottom_layers)
        self.top = self._make_mlp("top_l", config.top_layers)
        self.bottom_norms = self._make_norms("bot_l", config.bottom_layers)
        self.top_norms = self._make_norms("top_l", config.top_layers)
        self._predictions: dict[int, Graph] = {}
        if initialise:
            self.initialise(rng or np.random.RandomState(123), seed)

    def _make_tables(self) -> Any:
        config = self.config
        dims = config.table_dims or config.embedding_dim
        return self.backend.tables(config.table_rows, dims, self.precision, self.table_config)

    def _make_projection(self, table: int) -> Parameter:
        shape = (self.config.embedding_dim, self.config.projections[table])
        weight = self.backend.weight(np.zeros(shape, np.float32), self.precision)
        return Parameter(weight, f"emb_l.{table}.proj.weight")

    def _make_mlp(self, name: str, layers: tuple[tuple[int, int], ...]) -> tuple[Parameter, ...]:
        parameters = []
        for i, (c, k) in enumerate(layers):
            weight = self.backend.weight(np.zeros((k, c), np.float32), self.precision)
            parameters.append(Parameter(weight, f"{name}.{2 * i}.weight"))
            parameters.append(Parameter(np.zeros(k, self.backend.dtype), f"{name}.{2 * i}.bias"))
        return tuple(parameters)

    def _make_norms(self, name: str, layers: tuple[tuple[int, int], ...]) -> tuple[Norm, ...]:
        """Return the normalisation of each layer but the last, if the model has any."""
        hidden = layers[:-1] if self.config.batch_norm else ()
        dtype = self.backend.dtype
        return tuple(Norm(f"{name}.{2 * i}.norm", k, dtype) for i, (_, k) in enumerate(hidden))

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Normalisation of the hidden layers of both MLPs."""
        return self.bottom_norms + self.top_norms

    def initialise(self, rng: np.random.RandomState, seed: int = 123) -> None:
        """Redraw all parameters from ``rng``, in the order of the reference program.

        Projections are drawn as by PyTorch with ``seed`` instead.
        """
        self._initialise_tables(rng)
        self._initialise_projections(TorchStream(seed))
        for weight, bias in self._layers():
            k, c = self.backend.weight_to_numpy(weight.data).shape
            values = rng.normal(0.0, np.sqrt(2 / (c + k)), (k, c)).astype(np.float32)
            self.backend.assign_weight(weight.data, values)
            bias.data[...] = rng.normal(0.0, np.sqrt(1 / k), k)
        for norm in self.norms:
            norm.reset()

    def _initialise_tables(self, rng: np.random.RandomState) -> None:
        if self.init == "counter":
            self._init_tables_from_counter(int(rng.randint(0, 2**63, dtype=np.int64)))
        else:
            self._init_tables_from_rng(rng)

    def _init_tables_from_counter(self, seed: int) -> None:
        shapes = zip(self.config.table_rows, self.config.widths, strict=True)
        whole = [Origin(s, rows, dim) for s, (rows, dim) in enumerate(shapes)]
        self.backend.initialise(self.tables.data, seed, whole)

    def _init_tables_from_rng(self, rng: np.random.RandomState) -> None:
        for s, rows in enumerate(self.config.table_rows):
            bound = np.sqrt(1 / rows)
            flat = self.tables.data.table(s).reshape(-1)
            for first in range(0, flat.size, _INIT_CHUNK):
                part = flat[first : first + _INIT_CHUNK]
                part[...] = rng.uniform(-bound, bound, part.size)

    def scale_tables(self, factor: float) -> None:
        """Multiply all embedding tables by ``factor``, to scale their initial values."""
        for values in self._table_values():
            step = max(1, _INIT_CHUNK // values.shape[1])
            for first in range(0, len(values), step):
                part = np.asarray(values[first : first + step])
                values[first : first + step] = part * part.dtype.type(factor)

    def _table_values(self) -> Iterable[StoredArray]:
        """Return the tables (M, d); of a sharded model, the shards of this rank."""
        return (self.tables.data.table(s) for s in range(self.config.tables))

    def _initialise_projections(self, stream: TorchStream) -> None:
        """Draw as the reference does: PyTorch first draws tables that NumPy then overwrites."""
        if not self.projections:
            return
        E = self.config.embedding_dim
        shapes = zip(self.config.table_rows, self.config.widths, strict=True)
        for s, (rows, dim) in enumerate(shapes):
            stream.skip_normal(rows * dim)
            stream.skip_uniform(rows * dim)
            if s in self.projections:
                stream.skip_uniform(E * dim)
                values = stream.xavier_uniform(E, dim)
                self.backend.assign_weight(self.projections[s].data, values)

    def _layers(self) -> Iterator[tuple[Parameter, Parameter]]:
        for mlp in (self.bottom, self.top):
            yield from zip(mlp[::2], mlp[1::2], strict=True)

    def parameters(self) -> tuple[Parameter, ...]:
        """Return all parameters: the tables as one, then the dense ones."""
        return (self.tables, *self.dense_parameters())

    def dense_parameters(self) -> tuple[Parameter, ...]:
        """Return projections, then the MLPs, then their normalisation."""
        norms = (p for norm in self.norms for p in (norm.gamma, norm.beta))
        return (*self.projections.values(), *self.bottom, *self.top, *norms)

    def state_dict(self) -> dict[str, FloatArray]:
        """Return all parameters under the reference program's names, as float arrays.

        Tables are views of the model's memory, or copies if they are Split-BF16; weights (K, C) and
        biases (K,) are copies. A table is always ``emb_l.s.weight``, although the reference has
        ``emb_l.s.embs.weight`` with mixed dimensions; projections (E, d) are
        ``emb_l.s.proj.weight``.
        """
        return {name: np.asarray(array) for name, array in self.stored().items()}

    def stored(self) -> dict[str, StoredArray]:
        """As :meth:`state_dict`, but Split-BF16 stays Split-BF16, and no table is copied."""
        return self._in_order({s: self.tables.data.table(s) for s in range(self.config.tables)})

    def _in_order(self, tables: Mapping[int, StoredArray]) -> dict[str, StoredArray]:
        """Return all parameters in the order of the reference program, given the tables."""
        dense, state = self.mlp_state(), {}
        for s, table in tables.items():
            state[f"emb_l.{s}.weight"] = table
            if s in self.projections:
                name = self.projections[s].name
                state[name] = dense.pop(name)
        return state | dense

    def mlp_state(self) -> dict[str, StoredArray]:
        """Return copies of all parameters but the tables, as in :meth:`stored`."""
        state: dict[str, StoredArray] = {}
        for projection in self.projections.values():
            state[projection.name] = self._weight_copy(projection)
        for weight, bias in self._layers():
            state[weight.name] = self._weight_copy(weight)
            state[bias.name] = bias.data.copy()
        for norm in self.norms:
            state.update(norm.state())
        return state

    def _weight_copy(self, weight: Parameter) -> StoredArray:
        return to_precision(self.precision, self.backend.weight_to_numpy(weight.data))

    def load_state(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all parameters from arrays named and shaped as in :meth:`state_dict`.

        Raises CheckpointError naming the first parameter that is missing or has another shape,
        before any parameter is changed.
        """
        for name, current in self.stored().items():
            if name not in state:
                raise CheckpointError(f"the checkpoint lacks parameter {name}")
            if state[name].shape != current.shape:
                raise CheckpointError(
                    f"{name} has shape {state[name].shape} in the checkpoint, but this model "
                    f"needs {current.shape}"
                )
        self._load_tables(state)
        self.load_mlps(state)

    def _load_tables(self, state: Mapping[str, StoredArray]) -> None:
        for s in range(self.config.tables):
            self.tables.data.table(s)[...] = state[f"emb_l.{s}.weight"]

    def load_mlps(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all parameters but the tables; shapes must be those of the model."""
        for projection in self.projections.values():
            self.backend.assign_weight(projection.data, np.asarray(state[projection.name]))
        for weight, bias in self._layers():
            self.backend.assign_weight(weight.data, np.asarray(state[weight.name]))
            bias.data[...] = np.asarray(state[bias.name])
        for norm in self.norms:
            norm.load(state)

    def predict_proba(self, batch: Batch, *, threshold: float = 0.0) -> NDArray[np.float32]:
        """Return predicted probabilities (N,), clamped to [threshold, 1 - threshold].

        Raises
        ------
        IndexRangeError
            For a lookup outside its table, if the tables' bounds are ``raise``.
        ShapeError
            For a batch of another number of dense features or tables.
        """
        graph = self._predictions.get(batch.n)
        if graph is None:
            graph = Graph(self, batch.n)
            cache_graph(self._predictions, batch.n, graph)
        graph.load(batch)
        with self.backend.flush_denormals():  # as in training
            graph.tape.forward()
        return self.backend.probabilities(graph.logits.data, threshold)


def _checked_init(init: str) -> str:
    if init not in INITS:
        raise ConfigError(f"init must be one of {', '.join(INITS)}, not {init!r}")
    return init
