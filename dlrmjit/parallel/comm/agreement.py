"""Refuse ranks that would run different programs, before they mix results or wait in vain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from dlrmjit.errors import ConfigError
from dlrmjit.parallel.comm.json_exchange import exchange_json
from dlrmjit.parallel.comm.protocol import Comm

Facts = Mapping[str, str]
"""What a rank starts with, by name: the value of each option, digests of data and code, ..."""

_ABSENT = "nothing"
_SHOWN = 3  # differences that a message names


class RanksDifferError(ConfigError):
    """Ranks that were started with different options, data or code; raised on all of them."""


def require_agreement(comm: Comm, facts: Facts, name: str) -> None:
    """Raise RanksDifferError on every rank, with the same sentence, unless all have the same facts.

    ``name`` is that of the operation in which ranks wait for each other.
    """
    if comm.size == 1:
        return
    text = json.dumps(facts, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if len(set(exchange_json(comm, digest, name))) == 1:
        return
    found = differences(exchange_json(comm, dict(facts), name))
    raise RanksDifferError(f"the ranks of a job must be started alike, but {'; '.join(found)}")


def differences(facts: list[Facts]) -> list[str]:
    """Return for each fact that differs between ranks which rank has which value."""
    names = dict.fromkeys(name for one in facts for name in one)
    found = []
    for name in names:
        values = [one.get(name, _ABSENT) for one in facts]
        if len(set(values)) > 1:
            found.append(_difference(name, values))
    more = [f"{len(found) - _SHOWN} more differences"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more


def _difference(name: str, values: list[str]) -> str:
    """Name the first rank that differs from what most ranks have, and the first of those."""
    usual = max(dict.fromkeys(values), key=values.count)
    other = next(rank for rank, value in enumerate(values) if value != usual)
    return f"{name} is {values[other]} on rank {other} and {usual} on rank {values.index(usual)}"
