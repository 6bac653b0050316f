"""The DLRM: its parameters, their initial values, and predictions.

Bottom MLP over the dense features, one embedding bag per table, their interaction, top MLP to
one logit (Naumov et al., arXiv 1906.00091). Without dense features there is no bottom MLP;
tables narrower than E are projected to it (Ginart et al., arXiv 1909.11810).
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

_INIT_CHUNK = 1 << 20  # elements drawn at a time: large tables are never held in float64
INITS = ("reference", "counter")
"""How tables get their first values."""


class DLRM:
    """A deep learning recommendation model.

    Parameters
    ----------
    config : the architecture
    backend : ``jit``, ``reference`` or a backend itself; by default what ``DLRMJIT_BACKEND`` says
    rng : source of the initial parameters, drawn as the reference program draws them: tables
        in order, bottom MLP, top MLP. By default ``RandomState(123)``, the reference's seed
    init : ``reference`` draws tables from ``rng`` one number after the other; ``counter`` takes
        a seed from it, and makes any part of any table from that alone: quickly, and by many
    seed : of the projections of narrow tables, which the reference draws from PyTorch's stream
    precision : ``fp32``, or ``bf16``: tables and the MLPs' weights lie in halves, of which
        forward and backward read the upper and optimisers both, see :mod:`dlrmjit.precision`
    tables : where the tables are kept, and what they do with an index outside them

    Raises
    ------
    ConfigError
        For an unknown backend, precision or ``init``.
    MemoryLimitError
        When this machine cannot hold the parameters; nothing is allocated then.
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
        self.config, self.precision, self.init = config, precision, _known_init(init)
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
        """One for each layer but the last, when there are any."""
        hidden = layers[:-1] if self.config.batch_norm else ()
        dtype = self.backend.dtype
        return tuple(Norm(f"{name}.{2 * i}.norm", k, dtype) for i, (_, k) in enumerate(hidden))

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Of both MLPs."""
        return self.bottom_norms + self.top_norms

    def initialise(self, rng: np.random.RandomState, seed: int = 123) -> None:
        """Draw all parameters anew from ``rng``, in the reference program's order.

        Projections of tables come from PyTorch's stream of that ``seed`` instead.
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
            self._count_tables(int(rng.randint(0, 2**63, dtype=np.int64)))
        else:
            self._draw_tables(rng)

    def _count_tables(self, seed: int) -> None:
        shapes = zip(self.config.table_rows, self.config.widths, strict=True)
        whole = [Origin(s, rows, dim) for s, (rows, dim) in enumerate(shapes)]
        self.backend.initialise(self.tables.data, seed, whole)

    def _draw_tables(self, rng: np.random.RandomState) -> None:
        for s, rows in enumerate(self.config.table_rows):
            bound = np.sqrt(1 / rows)
            flat = self.tables.data.table(s).reshape(-1)
            for first in range(0, flat.size, _INIT_CHUNK):
                part = flat[first : first + _INIT_CHUNK]
                part[...] = rng.uniform(-bound, bound, part.size)

    def scale_tables(self, factor: float) -> None:
        """Multiply all embedding tables by ``factor``, before they are trained."""
        for values in self._table_values():
            step = max(1, _INIT_CHUNK // values.shape[1])
            for first in range(0, len(values), step):
                part = np.asarray(values[first : first + step])
                values[first : first + step] = part * part.dtype.type(factor)

    def _table_values(self) -> Iterable[StoredArray]:
        """Tables (M, E), or the parts of them that are here."""
        return (self.tables.data.table(s) for s in range(self.config.tables))

    def _initialise_projections(self, stream: TorchStream) -> None:
        """As the reference, which first has PyTorch draw what it then replaces."""
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
        """Everything that training changes: all tables as one, then what is dense."""
        return (self.tables, *self.dense_parameters())

    def dense_parameters(self) -> tuple[Parameter, ...]:
        """Projections of narrow tables, then the MLPs."""
        norms = (p for norm in self.norms for p in (norm.gamma, norm.beta))
        return (*self.projections.values(), *self.bottom, *self.top, *norms)

    def state_dict(self) -> dict[str, FloatArray]:
        """All parameters under the reference program's names, as arrays of whole numbers.

        Tables are views of the model's memory, copies where they lie in halves; weights (K, C)
        and biases (K,) are copies. A table is ``emb_l.s.weight`` also where the reference, given
        mixed dimensions, calls it ``emb_l.s.embs.weight``; its projection (E, d) is
        ``emb_l.s.proj.weight``.
        """
        return {name: np.asarray(array) for name, array in self.stored().items()}

    def stored(self) -> dict[str, StoredArray]:
        """As :meth:`state_dict`, but in halves what the model keeps in halves; no table copied."""
        return self._in_order({s: self.tables.data.table(s) for s in range(self.config.tables)})

    def _in_order(self, tables: Mapping[int, StoredArray]) -> dict[str, StoredArray]:
        """All parameters as the reference numbers them, given the tables."""
        dense, state = self.mlp_state(), {}
        for s, table in tables.items():
            state[f"emb_l.{s}.weight"] = table
            if s in self.projections:
                name = self.projections[s].name
                state[name] = dense.pop(name)
        return state | dense

    def mlp_state(self) -> dict[str, StoredArray]:
        """Copies of all parameters but the tables, as in :meth:`stored`."""
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

        Raises CheckpointError naming the first missing or misshapen parameter, before any
        parameter is changed.
        """
        for name, own in self.stored().items():
            if name not in state:
                raise CheckpointError(f"the checkpoint lacks parameter {name}")
            if state[name].shape != own.shape:
                raise CheckpointError(
                    f"{name} has shape {state[name].shape} in the checkpoint, but this model "
                    f"needs {own.shape}"
                )
        self._load_tables(state)
        self.load_mlps(state)

    def _load_tables(self, state: Mapping[str, StoredArray]) -> None:
        for s in range(self.config.tables):
            self.tables.data.table(s)[...] = state[f"emb_l.{s}.weight"]

    def load_mlps(self, state: Mapping[str, StoredArray]) -> None:
        """Overwrite all parameters but the tables, which are left; shapes must fit."""
        for projection in self.projections.values():
            self.backend.assign_weight(projection.data, np.asarray(state[projection.name]))
        for weight, bias in self._layers():
            self.backend.assign_weight(weight.data, np.asarray(state[weight.name]))
            bias.data[...] = np.asarray(state[bias.name])
        for norm in self.norms:
            norm.load(state)

    def predict_proba(self, batch: Batch, *, threshold: float = 0.0) -> NDArray[np.float32]:
        """Predicted probabilities (N,) of a batch, clamped to [threshold, 1 - threshold].

        Raises IndexRangeError for a lookup outside its table, if that is what the tables do
        with it, ShapeError for a batch of another number of dense features or tables.
        """
        graph = self._predictions.get(batch.n)
        if graph is None:
            graph = Graph(self, batch.n)
            cache_graph(self._predictions, batch.n, graph)
        graph.load(batch)
        with self.backend.flush_denormals():  # as in training, whichever thread computes
            graph.tape.forward()
        return self.backend.probabilities(graph.logits.data, threshold)


def _known_init(init: str) -> str:
    if init not in INITS:
        raise ConfigError(f"init must be one of {', '.join(INITS)}, not {init!r}")
    return init
