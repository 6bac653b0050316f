"""Choose by counted bytes of which embedding nodes ranks exchange sums instead of vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

from dlrmjit.architecture.architecture import Architecture
from dlrmjit.config.memory import FLOAT_BYTES
from dlrmjit.errors import ConfigError
from dlrmjit.parallel.exchanges.sums import operators, substitutable, width_of
from dlrmjit.parallel.plan import Plan

Exchange = Literal["auto", "alltoall", "substitute"]
EXCHANGES: tuple[str, ...] = get_args(Exchange)


def with_exchange(plan: Plan, architecture: Architecture, exchange: str) -> Plan:
    """Return a plan that exchanges sums of all nodes that allow it, of none, or of the cheaper.

    ``auto`` leaves out tables split by rows whose bags are multiplied, since those may have only
    one row. Raises ConfigError for another ``exchange``, or one that suits no node.
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
                "their products, such as lr, fm or nfm; for others give --exchange=auto"
            )
        return replace(plan, substituted=allowed)
    chosen: set[str] = set()
    for group in _groups(architecture, _of_any_bags(architecture, plan, allowed)):
        if sum_bytes(architecture, plan, group) < vector_bytes(architecture, plan, group):
            chosen |= set(group)
    return replace(plan, substituted=tuple(name for name in allowed if name in chosen))


def proposed_with_exchange(
    propose: Callable[[bool], Plan], architecture: Architecture, exchange: str, samples: int
) -> Plan:
    """Return the plan of those with and without replicated tables that sends fewer bytes.

    ``propose`` makes a plan that may replicate tables, or may not. A replicated table sends nothing
    for its vectors, but the gradient of all of its rows; where sums are exchanged, a table that is
    not replicated sends nothing at all. Only plans that exchange sums do without. ``samples`` are
    those of a batch of all ranks.
    """
    plan = with_exchange(propose(True), architecture, exchange)
    if not plan.replicated or exchange == "alltoall" or plan.ranks == 1:
        return plan
    other = with_exchange(propose(False), architecture, exchange)
    if not other.substituted:
        return plan
    return min(plan, other, key=lambda each: bytes_per_step(architecture, each, samples))


def bytes_per_step(architecture: Architecture, plan: Plan, samples: int) -> float:
    """Return the bytes that a rank sends for its tables in a step of ``samples`` of all ranks."""
    replicated = sum(plan.table_rows[t] * plan.dims[t] for t in plan.replicated)
    return samples * bytes_per_sample(architecture, plan) + _there_and_back(plan) * replicated


def vector_bytes(architecture: Architecture, plan: Plan, nodes: Sequence[str]) -> float:
    """Return the bytes that a rank sends for the vectors of nodes, forward and backward.

    They are a mean over ranks, for one sample of a batch of all ranks.
    """
    specs = architecture.table_specs
    pooled = sum(shard.width for shard in plan.shards if specs[shard.table].node in nodes)
    return _there_and_back(plan) * pooled / plan.ranks


def sum_bytes(architecture: Architecture, plan: Plan, nodes: Sequence[str]) -> float:
    """Return the same for sums of the vectors of nodes."""
    return _there_and_back(plan) * width_of(operators(architecture, nodes))


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
    partners = {operator.partner for operator in found}
    for operator in found:
        if operator.node not in partners:
            yield [operator.node, *([operator.partner] if operator.partner else [])]


def _of_any_bags(architecture: Architecture, plan: Plan, names: Sequence[str]) -> list[str]:
    """Return the nodes whose bags may have any number of rows."""
    specs = enumerate(architecture.table_specs)
    split = {spec.node for t, spec in specs if plan.placements[t].kind == "rows"}
    kinds = {operator.node: operator.kind for operator in operators(architecture, names)}
    return [name for name in names if kinds[name] == "sum" or name not in split]
