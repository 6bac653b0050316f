"""The losses of rankings within lists, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dlrmjit.errors import ConfigError

MOST_RELEVANCE = 100.0
"""Largest relevance of an item: gains are 2 ** relevance - 1."""
ListLossKind = Literal["hinge", "listnet", "plackett-luce", "lambda", "approx-ndcg"]

LIST_LOSSES: dict[str, ListLossKind] = {
    "lambdarank" if kind == "lambda" else kind: kind for kind in get_args(ListLossKind)
}
"""The kinds by their names on the command line."""


@dataclass(frozen=True)
class ListLoss:
    """The mean over lists of a loss of scores against graded relevance; docs/lists.md has each.

    ``temperature`` is that of the smooth ranks of ``approx-ndcg``. Raises ConfigError for an
    unknown kind, or a temperature that is not above 0.
    """

    kind: ListLossKind = "listnet"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        kinds = get_args(ListLossKind)
        if self.kind not in kinds:
            raise ConfigError(f"a list loss must be one of {', '.join(kinds)}, not {self.kind!r}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError(f"temperature must be above 0 and finite, not {self.temperature}")
