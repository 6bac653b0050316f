"""A server with any engine, as a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from bench.serve.peers import ENGINES
from bench.serve.queries import MLPERF_SIZES
from dlrmjit.serve.allocation.cras import CrasPolicy
from dlrmjit.serve.batcher import Batcher, Work
from dlrmjit.serve.http.bodies import BodyLimits
from dlrmjit.serve.http.server import bind, run, serve
from dlrmjit.serve.processes import generation
from dlrmjit.serve.processes.wire import Spec
from dlrmjit.serve.service import TICK, FixedPolicy, Limits, Policy, Service


class OneQuery(Batcher[Any]):
    """A batcher that neither joins queries nor splits them: a batch is a query, in their order."""

    def postpone_late(self, *state: Any, **more: Any) -> None:
        """Let no query give way."""

    def take(self, idle: int, busy: int = 0, rows_left: float = 0.0) -> list[Work[Any]]:
        """Return the query with the earliest deadline."""
        first = self._pop()
        return [first[1]] if first else []


POLICIES: dict[str, Callable[[], Policy]] = {
    "fixed": FixedPolicy,
    "cras": lambda: CrasPolicy(TICK),
}


def main() -> None:
    """Serve until SIGTERM; print the port, and the seconds of a batch: fixed, and per row."""
    model, engine, workers, most, policy = sys.argv[1:]
    largest = int(most)
    if engine == "one-query":
        vars(generation)["Batcher"] = OneQuery
        largest = max(largest, *MLPERF_SIZES)
    spec = Spec(model, None, int(workers), largest, engine=ENGINES[engine])
    service = Service(spec, Limits(most_wait=1.0), POLICIES[policy]())
    with bind("127.0.0.1", 0) as sock:

        def announce() -> None:
            cost = service.generation.ready.costs[0]
            print(sock.getsockname()[1], cost.fixed, cost.per_row, flush=True)

        run(serve(service, sock, BodyLimits(), 0.0, announce))


if __name__ == "__main__":
    main()
