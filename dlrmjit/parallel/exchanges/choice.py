"""Choose by counted bytes of which embedding nodes ranks exchange sums instead of vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.architecture.first_layer import FirstLayer, first_layer_over
from dlrmjit.config.memory import FLOAT_BYTES
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.exchanges.sums import operators, substitutable, width_of
from dlrmjit.parallel.plan import Plan

Exchange = Literal["auto", "alltoall", "substitute"]
EXCHANGES: tuple[str, ...] = get_args(Exchange)


def with_exchange(
    plan: Plan,
    architecture: Architecture,
    exchange: str,
    samples: int | None = None,
    *,
    divides_weights: bool = True,
) -> Plan:
    """Return a plan that exchanges sums of all nodes that allow it, of none, or of the cheaper.

    ``auto`` leaves out tables split by rows whose bags are multiplied, since those may have only
    one row. It counts the bytes of a step of ``samples`` of all ranks, by default of so many that
    only they matter, and leaves out first layers unless it ``divides_weights`` among ranks. Raises
    ConfigError for another ``exchange``, or one that suits no node.
    """
    if exchange not in EXCHANGES:
        raise ConfigError(f"unknown exchange {exchange!r}; known are {', '.join(EXCHANGES)}")
    if exchange == "alltoall" or plan.ranks == 1:
        return replace(plan, substituted=())
    allowed = substitutable(architecture, plan)
    if exchange == "substitute":
        if not allowed:
            raise ConfigError(
                "--exchange=substitute needs a model that only sums vectors of whole tables, or "
                "their products, such as lr, fm or nfm, or first layers over whole tables as "
                "deepfm and wide-deep have; for others give --exchange=auto"
            )
        return replace(plan, substituted=allowed)
    chosen: set[str] = set()
    if not divides_weights:
        allowed = tuple(name for name in allowed if not first_layer_over(architecture, name))
    for group in _groups(architecture, _of_any_bags(architecture, plan, allowed)):
        vectors = vector_bytes(architecture, plan, group)
        if samples is not None:
            vectors += _layer_bytes(architecture, plan, group) / samples
        if sum_bytes(architecture, plan, group) < vectors:
            chosen |= set(group)
    return replace(plan, substituted=tuple(name for name in allowed if name in chosen))


def proposed_with_exchange(
    propose: Callable[[bool], Plan],
    architecture: Architecture,
    exchange: str,
    samples: int,
    *,
    divides_weights: bool = True,
) -> Plan:
    """Return the plan of those with and without replicated tables that sends fewer bytes.

    ``propose`` makes a plan that may replicate tables, or may not. A replicated table sends nothing
    for its vectors, but the gradient of all of its rows; where sums are exchanged, a table that is
    not replicated sends nothing at all. Only plans that exchange sums do without. ``samples`` are
    those of a batch of all ranks, ``divides_weights`` is that of :func:`with_exchange`.
    """
    choose = partial(
        with_exchange,
        architecture=architecture,
        exchange=exchange,
        samples=samples,
        divides_weights=divides_weights,
    )
    plan = choose(propose(True))
    if not plan.replicated or exchange == "alltoall" or plan.ranks == 1:
        return plan
    other = choose(propose(False))
    if not other.substituted:
        return plan
    if exchange == "substitute" and len(other.substituted) > len(plan.substituted):
        return other  # it was asked for, and first layers need whole tables
    return min(plan, other, key=lambda each: bytes_per_step(architecture, each, samples))


def bytes_per_step(architecture: Architecture, plan: Plan, samples: int) -> float:
    """Return the bytes that a rank sends for its tables in a step of ``samples`` of all ranks.

    Gradients of the columns of first layers that are for vectors of tables are among them.
    """
    replicated = sum(plan.table_rows[t] * plan.dims[t] for t in plan.replicated)
    vectors = [n.name for n in architecture.embeddings if n.name not in plan.substituted]
    weights = _layer_bytes(architecture, plan, vectors)
    each = bytes_per_sample(architecture, plan)
    return samples * each + weights + _there_and_back(plan) * replicated


def foretold_bytes(architecture: Architecture, plan: Plan, samples: int) -> dict[str, float]:
    """Return the bytes that a rank sends in a step of ``samples`` of all ranks, by operation.

    They are a mean over ranks. The operations are those that communicators count, without lookups,
    which depend on the data.
    """
    vectors = [n.name for n in architecture.embeddings if n.name not in plan.substituted]
    own = sum(each.columns * each.outputs for each in _layers(architecture, plan.substituted))
    # a replicated table has a marker per row, too
    replicated = sum(plan.table_rows[t] * (plan.dims[t] + 1) for t in plan.replicated)
    of_all = architecture.dense_parameters - own + replicated
    sums = samples * sum_bytes(architecture, plan, plan.substituted) / 2
    found = {
        "alltoall": samples * vector_bytes(architecture, plan, vectors),
        "reduce_scatter": sums,
        "allgather": sums,
        "allreduce": _there_and_back(plan) * of_all,
    }
    return {name: count for name, count in found.items() if count}


def vector_bytes(architecture: Architecture, plan: Plan, nodes: Sequence[str]) -> float:
    """Return the bytes that a rank sends for the vectors of nodes, forward and backward.

    They are a mean over ranks, for one sample of a batch of all ranks.
    """
    specs = architecture.table_specs
    pooled = sum(
        shard.width * max(1, specs[shard.table].positions)
        for shard in plan.shards
        if specs[shard.table].node in nodes
    )
    return _there_and_back(plan) * pooled / plan.ranks


def sum_bytes(architecture: Architecture, plan: Plan, nodes: Sequence[str]) -> float:
    """Return the same for sums of the vectors of nodes."""
    return _there_and_back(plan) * width_of(operators(architecture, nodes))


def _layer_bytes(architecture: Architecture, plan: Plan, nodes: Sequence[str]) -> float:
    """Return the bytes that a rank sends of the gradients of first layers over nodes' vectors."""
    layers = _layers(architecture, nodes)
    return _there_and_back(plan) * sum(each.columns * each.outputs for each in layers)


def _layers(architecture: Architecture, nodes: Sequence[str]) -> list[FirstLayer]:
    """Return the first layers over nodes' vectors."""
    found = (first_layer_over(architecture, name) for name in nodes)
    return [layer for layer in found if layer is not None]


def bytes_per_sample(architecture: Architecture, plan: Plan) -> float:
    """Return the bytes that a rank sends of embeddings per sample of a batch of all ranks."""
    vectors = [n.name for n in architecture.embeddings if n.name not in plan.substituted]
    sums = sum_bytes(architecture, plan, plan.substituted)
    return vector_bytes(architecture, plan, vectors) + sums


def _there_and_back(plan: Plan) -> float:
    """Return the bytes of one number to or from each of the other ranks, twice."""
    return 2 * FLOAT_BYTES * (plan.ranks - 1) / plan.ranks


def _groups(architecture: Architecture, names: Sequence[str]) -> Iterator[list[str]]:
    """Yield names of nodes, those that share a column together."""
    found = operators(architecture, names)
    partner_of = {operator.node: operator.partner for operator in found if operator.partner}
    for name in dict.fromkeys(operator.node for operator in found):
        if name not in partner_of.values():
            yield [name, *([partner_of[name]] if name in partner_of else [])]


def _of_any_bags(architecture: Architecture, plan: Plan, names: Sequence[str]) -> list[str]:
    """Return the nodes whose bags may have any number of rows."""
    specs = enumerate(architecture.table_specs)
    split = {spec.node for t, spec in specs if plan.placements[t].kind == "rows"}
    found = operators(architecture, names)
    multiplied = {operator.node for operator in found if operator.kind != "sum"}
    return [name for name in names if name not in split & multiplied]
