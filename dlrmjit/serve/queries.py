"""Queries as they were sent: rows of raw values or encoded arrays, which can be cut and chosen.

They are counted and checked for form where they arrive, and encoded where they are scored, so that
the process that talks to clients stays light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dlrmjit.errors import DlrmjitError

Kind = Literal["predict", "rank"]


class RequestError(DlrmjitError):
    """A request that is refused, with the status of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Form:
    """What the model reads: dense values D and tables S of encoded rows, most rows of a query."""

    dense: int
    tables: int
    most_rows: int = 4096


class Payload(Protocol):
    """The rows of a query."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def cut(self, start: int, end: int) -> Payload:
        """Return rows ``start`` to ``end``."""

    def take(self, chosen: NDArray[np.int64]) -> Payload:
        """Return the rows ``chosen``, in that order."""


@dataclass(frozen=True)
class Mappings:
    """Rows as mappings from column names to raw values; ``user`` has the values all rows share."""

    rows: Sequence[Mapping[str, Any]]
    user: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, start: int, end: int) -> Mappings:
        """Return rows ``start`` to ``end``."""
        return replace(self, rows=self.rows[start:end])

    def take(self, chosen: NDArray[np.int64]) -> Mappings:
        """Return the rows ``chosen``, in that order."""
        return replace(self, rows=[self.rows[i] for i in chosen])


@dataclass(frozen=True)
class ArrowRows:
    """Rows of an Arrow IPC stream; ``user`` has the values all rows share."""

    content: bytes
    chosen: NDArray[np.int64]
    user: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def cut(self, start: int, end: int) -> ArrowRows:
        """Return rows ``start`` to ``end``."""
        return replace(self, chosen=self.chosen[start:end])

    def take(self, chosen: NDArray[np.int64]) -> ArrowRows:
        """Return the rows ``chosen``, in that order."""
        return replace(self, chosen=self.chosen[chosen])

    def table(self) -> Any:
        """Return the rows as an Arrow table. Raises DataError for a stream that is damaged."""
        from dlrmjit.serve.arrow_stream import chosen_rows

        return chosen_rows(self.content, self.chosen)


@dataclass(frozen=True)
class Query:
    """What a client asks: scores of rows (``predict``), or candidates in order (``rank``).

    ``weight`` multiplies the value of ranking one more candidate; ``top`` is the number of
    candidates to return, 0 for all.
    """

    kind: Kind
    payload: Payload
    weight: float = 1.0
    top: int = 0

    def __len__(self) -> int:
        return len(self.payload)
