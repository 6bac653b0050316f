"""The architecture of a model and the storage of its tables, as values that check themselves.

Nothing here allocates or computes: a configuration can be printed, stored, compared, and
refused before any memory is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.dynamic_ids import DYNAMIC, DynamicIds
from dlrmjit.architecture.families.dlrm import dlrm
from dlrmjit.architecture.nodes.embedding import Operation, Pooling
from dlrmjit.architecture.nodes.mlp import ACTIVATIONS, check_one_norm
from dlrmjit.errors import ConfigError, format_sizes

_MOST_SHOWN = 30  # tables whose sizes ``repr`` shows
Interaction = Literal["dot", "cat"]
Bounds = Literal["raise", "clamp", "ignore"]


_OF_TABLES = {
    "qr_collisions": "collisions",
    "qr_operation": "operation",
    "pooling": "pooling",
    "learned_pooling": "learned",
}
"""Values of the node of the tables, which older descriptions of models do not have."""


_NOT_OF_REFERENCE = {
    "layer_norm": False,
    "bottom_activation": "relu",
    "top_activation": "relu",
    "wide": False,
    "dynamic": None,
}
"""Fields that models of the reference program do not have, with the values that stand for none."""


def _is_left_out(name: str, value: Any) -> bool:
    """Return whether descriptions leave a value out, as those of models from before it existed."""
    of_tables = name in _OF_TABLES and value in ((), "mult", "sum", False)
    return of_tables or (name in _NOT_OF_REFERENCE and value == _NOT_OF_REFERENCE[name])


def _shown(name: str, value: Any) -> str:
    """Return an argument as ``repr`` shows it."""
    is_long = name.startswith("table") and len(value) > _MOST_SHOWN
    return f"<{format_sizes(value)}>" if is_long else repr(value)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a DLRM.

    Parameters
    ----------
    table_rows : rows M of each of the S embedding tables
    embedding_dim : E, the width of every table; must equal the last width of ``mlp_bottom``, or
        half of it if the vectors of two tables are concatenated
    mlp_bottom : widths of the bottom MLP, its input (the dense features) first; empty for a
        model without dense features, in which embeddings alone interact
    mlp_top : widths of the top MLP without its input, which the interaction determines; ends in 1
    interaction : ``dot`` (pairwise dot products and x) or ``cat`` (concatenation)
    interaction_itself : whether ``dot`` includes each feature's product with itself
    dropout : share of the outputs of hidden layers that training sets to zero; the last layer
        of an MLP is not hidden
    batch_norm : whether hidden layers are normalised over the batch before their activation
    table_dims : width of each table, at most E; a narrower one is followed by a projection to E.
        Empty if all have width E
    qr_collisions : for each table 0, or the number of values that share a row of quotients, of
        which another table has as many remainders. Empty if all are 0
    qr_operation : how the pooled rows of both tables become a vector: ``mult``, ``add``, ``concat``
    pooling : ``sum`` or ``mean`` of the rows of a bag
    learned_pooling : whether rows have weights in their bags that are trained
    layer_norm : whether hidden layers are normalised over their outputs instead
    bottom_activation : activation of all layers of the bottom MLP: ``relu``, ``sigmoid``, ``tanh``,
        ``silu`` or ``none``
    top_activation : activation of the top MLP's hidden layers
    wide : whether the logit also has a weight per category and per dense feature
    dynamic : which ids are any 64-bit integers, that get rows when they are seen; also all whose
        table has ``"dynamic"`` rows
    """

    table_rows: tuple[int, ...]  # integers, also where "dynamic" was given
    embedding_dim: int
    mlp_bottom: tuple[int, ...]
    mlp_top: tuple[int, ...]
    interaction: Interaction = "dot"
    interaction_itself: bool = False
    dropout: float = 0.0
    batch_norm: bool = False
    table_dims: tuple[int, ...] = ()
    qr_collisions: tuple[int, ...] = ()
    qr_operation: Operation = "mult"
    pooling: Pooling = "sum"
    learned_pooling: bool = False
    layer_norm: bool = False
    bottom_activation: str = "relu"
    top_activation: str = "relu"
    wide: bool = False
    dynamic: DynamicIds | None = None

    def __post_init__(self) -> None:
        self._resolve_dynamic()
        for name in ("table_rows", "mlp_bottom", "mlp_top", "table_dims", "qr_collisions"):
            object.__setattr__(self, name, _sizes(name, getattr(self, name)))
        if not any(self.qr_collisions):
            object.__setattr__(self, "qr_collisions", ())
            object.__setattr__(self, "qr_operation", "mult")
        self._check_sizes()
        self._check_dims()
        self._check_widths()
        _ = self.architecture.table_specs  # checks what remains

    def __repr__(self) -> str:
        """Return the arguments; of many tables, how many they are and their least and most."""
        values = ((name, value) for name, value in self._values() if not _is_left_out(name, value))
        shown = (f"{name}={_shown(name, value)}" for name, value in values)
        return f"ModelConfig({', '.join(shown)})"

    def _resolve_dynamic(self) -> None:
        """Let a limit of bytes say how many rows tables with dynamic rows have."""
        dynamic = DynamicIds.of(self.dynamic)
        given: Sequence[int | str] = self.table_rows
        if dynamic is None and DYNAMIC in given:
            raise ConfigError(
                "tables with dynamic rows need a limit of bytes: dynamic=DynamicIds(limit=...)"
            )
        if dynamic is not None:
            rows, dynamic = dynamic.resolved(self.table_rows, self.embedding_dim)
            object.__setattr__(self, "table_rows", rows)
        object.__setattr__(self, "dynamic", dynamic)

    def _values(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def _check_sizes(self) -> None:
        named: Mapping[str, Sequence[int]] = {
            "table_rows": self.table_rows,
            "embedding_dim": (self.embedding_dim,),
            "mlp_bottom": self.mlp_bottom or (1,),
            "mlp_top": self.mlp_top,
        }
        for name, values in named.items():
            if not values or min(values) < 1:
                raise ConfigError(f"{name} must hold positive sizes, not {_dashed(values)!r}")
        if self.interaction not in ("dot", "cat"):
            raise ConfigError(f"interaction must be dot or cat, not {self.interaction!r}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        check_one_norm(self.batch_norm, self.layer_norm)
        for name in ("bottom_activation", "top_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                wanted = ", ".join(ACTIVATIONS)
                raise ConfigError(f"{name} must be one of {wanted}, not {getattr(self, name)!r}")

    def _check_dims(self) -> None:
        """Check the widths of tables; drop them if all are E, so that equal models are equal."""
        dims, widest = self.table_dims, self.embedding_dim
        if dims and len(dims) != self.tables:
            raise ConfigError(f"{len(dims)} table widths are given for {self.tables} tables")
        for table, dim in enumerate(dims):
            if not 1 <= dim <= widest:
                raise ConfigError(
                    f"table {table} has width {dim}, but widths must be 1 to "
                    f"arch-sparse-feature-size {widest}"
                )
        if all(dim == widest for dim in dims):
            object.__setattr__(self, "table_dims", ())

    def _check_widths(self) -> None:
        if len(self.mlp_bottom) == 1:
            raise ConfigError(
                f"the bottom MLP needs an input and at least one layer, not {self.mlp_bottom}; "
                "without dense features, leave it empty"
            )
        if self.has_dense and self.mlp_bottom[-1] != self.vector_width:
            name = (
                "arch-sparse-feature-size"
                if self.vector_width == self.embedding_dim
                else ("2 arch-sparse-feature-size")
            )
            raise ConfigError(
                f"{name} {self.vector_width} does not match last dim of bottom mlp "
                f"{self.mlp_bottom[-1]}"
            )
        if self.mlp_top[-1] != 1:
            raise ConfigError(f"the top MLP must end in one output, not {self.mlp_top[-1]}")
        if not self.interaction_width:
            raise ConfigError(
                "one table alone has nothing to interact with: take the interaction cat, or dot "
                "with itself"
            )

    @cached_property
    def architecture(self) -> Architecture:
        """The nodes of this model."""
        own = (*_OF_TABLES, "dynamic")
        values = {name: value for name, value in self._values() if name not in own}
        nodes = dlrm(**(values | {"embedding_dim": self.vector_width}))
        changes = {new: getattr(self, old) for old, new in _OF_TABLES.items()}
        return replace(nodes.with_values("emb_l", **changes), dynamic=self.dynamic)

    @property
    def has_dense(self) -> bool:
        """Whether there are dense features, and so a bottom MLP."""
        return bool(self.mlp_bottom)

    @property
    def dense_features(self) -> int:
        """Number of dense features, D."""
        return self.mlp_bottom[0] if self.has_dense else 0

    @property
    def tables(self) -> int:
        """Number of embedding tables, S."""
        return len(self.table_rows)

    @property
    def vector_width(self) -> int:
        """Width in which features interact: E, or 2 E if vectors are concatenated."""
        return self.embedding_dim * (2 if self.qr_operation == "concat" else 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each table."""
        return self.table_dims or (self.embedding_dim,) * self.tables

    @property
    def projections(self) -> dict[int, int]:
        """Widths of the tables narrower than E, by table."""
        return {s: dim for s, dim in enumerate(self.table_dims) if dim < self.embedding_dim}

    @property
    def features(self) -> int:
        """Number of vectors that interact, F: one per table, and one of any dense features."""
        return self.tables + int(self.has_dense)

    @property
    def interaction_width(self) -> int:
        """Number of inputs of the top MLP."""
        if self.interaction == "cat":
            return self.features * self.vector_width
        pairs = self.features * (self.features - 1) // 2
        x = self.vector_width if self.has_dense else 0
        return x + pairs + (self.features if self.interaction_itself else 0)

    @property
    def bottom_layers(self) -> tuple[tuple[int, int], ...]:
        """(C, K) of each fully connected layer of the bottom MLP."""
        return tuple(pairwise(self.mlp_bottom))

    @property
    def top_layers(self) -> tuple[tuple[int, int], ...]:
        """(C, K) of each fully connected layer of the top MLP."""
        widths = (self.interaction_width, *self.mlp_top)
        return tuple(pairwise(widths))

    @property
    def mlp_parameters(self) -> int:
        """Number of elements of the MLPs, of their normalisation, and of projections."""
        return self.architecture.dense_parameters

    @property
    def table_parameters(self) -> int:
        """Number of elements of all embedding tables."""
        return self.architecture.table_parameters

    @property
    def unknown_to_reference(self) -> tuple[str, ...]:
        """Fields whose values the reference program's models cannot have."""
        usual = _NOT_OF_REFERENCE.items()
        return tuple(name for name, value in usual if getattr(self, name) != value)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, which :meth:`from_dict` reads back."""
        values = ((k, v) for k, v in asdict(self).items() if not _is_left_out(k, v))
        found = {k: list(v) if isinstance(v, tuple) else v for k, v in values}
        return found if self.dynamic is None else {**found, "dynamic": self.dynamic.to_dict()}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> ModelConfig:
        """Build a model from :meth:`to_dict`'s result.

        Raises ConfigError for unknown or missing keys.
        """
        try:
            return cls(**description)
        except TypeError as error:
            raise ConfigError(f"not a model description: {error}") from error


@dataclass(frozen=True)
class TableConfig:
    """Where the embedding tables of a model are stored, and how an invalid index is handled.

    Neither is part of the architecture, so checkpoints do not record them.

    Parameters
    ----------
    directory : store the tables, and the optimizer states of their rows, in files in this folder
        instead of memory, which they may exceed. The files are gone when the process ends; save a
        checkpoint to keep the model
    bounds : what to do with an index outside its table: ``raise`` refuses the batch, ``clamp``
        takes the nearest row, ``ignore`` leaves the lookup out of its bag
    """

    directory: str | None = None
    bounds: Bounds = "raise"

    def __post_init__(self) -> None:
        if self.bounds not in get_args(Bounds):
            raise ConfigError(f"bounds must be raise, clamp or ignore, not {self.bounds!r}")
        if self.directory is not None and not Path(self.directory).is_dir():
            raise ConfigError(
                f"tables cannot be stored in {self.directory}, which is not a folder; create it"
            )


IN_MEMORY = TableConfig()

AnyModelConfig = ModelConfig | Architecture
"""Values that describe a model; of both, ``architecture`` are the nodes."""


def model_from_dict(description: Mapping[str, Any]) -> AnyModelConfig:
    """Return the model that a checkpoint describes; raises ConfigError if it is none."""
    if "nodes" in description:
        return Architecture.from_dict(description)
    return ModelConfig.from_dict(description)


def _sizes(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    """Return whole numbers as integers; raises ConfigError for others and for text."""
    try:
        sizes = tuple(int(value) for value in values)
        if isinstance(values, str) or sizes != tuple(values):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} must hold whole numbers, not {values!r:.60}") from None
    return sizes


def _dashed(values: Sequence[int]) -> str:
    return "-".join(str(v) for v in values)
