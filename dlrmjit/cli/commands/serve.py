"""The command ``serve``: an inference server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlrmjit.cli.exit_codes import exit_code_of
from dlrmjit.cli.options.command_line import parse_command
from dlrmjit.cli.options.serve_flags import SERVE
from dlrmjit.errors import CheckpointError, ConfigError
from dlrmjit.files import refuse_special

if TYPE_CHECKING:
    from dlrmjit.serve.service import Service

_MIB = 1 << 20
_MS = 1e-3
_PATIENCE = 10.0  # seconds after which a prediction is given up, or ten budgets


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    return exit_code_of(lambda: _run(parse_command(SERVE, sys.argv[1:] if argv is None else argv)))


def _run(options: Any) -> None:
    host, port = _address(options.listen)
    for path in filter(None, (options.model, options.prerank)):
        refuse_special(path, CheckpointError)
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; give a saved model")
    _require_libraries()
    from dlrmjit.serve.http.bodies import BodyLimits
    from dlrmjit.serve.http.server import bind, run, serve

    logging.basicConfig(format="dlrmjit: %(message)s")
    service = _service(options)
    limits = BodyLimits(int(options.max_body_mb * _MIB), options.body_seconds, options.max_rows)
    with bind(host, port) as sock:
        name, bound = sock.getsockname()[:2]

        def announce() -> None:
            workers, ready = service.spec.workers, service.generation.ready
            print(
                f"serving {options.model} at http://{name}:{bound}, {workers} workers, tables of "
                f"{ready.table_bytes / _MIB:,.1f} MiB ({options.tables}) on {ready.tables}",
                flush=True,
            )

        run(serve(service, sock, limits, options.watch, announce))


def _service(options: Any) -> Service:
    from dlrmjit_kernels.runtime.threads import available_cpus

    from dlrmjit.serve.allocation.cras import CrasPolicy
    from dlrmjit.serve.processes.wire import Spec
    from dlrmjit.serve.service import TICK, FixedPolicy, Limits, Service

    cpus = available_cpus()
    if options.cpus and options.cpus > cpus:
        raise ConfigError(f"--cpus={options.cpus} found, but this process may use {cpus} CPUs")
    spec = Spec(
        str(options.model),
        None if options.prerank is None else str(options.prerank),
        options.cpus or cpus,
        options.batch_size,
        options.backend,
        options.tables,
    )
    budget = options.budget_ms * _MS
    limits = Limits(budget, options.max_wait_ms * _MS, patience=max(_PATIENCE, 10 * budget))
    if options.policy == "fixed":
        return Service(spec, limits, FixedPolicy(options.candidates))
    if options.candidates:
        raise ConfigError("--candidates is of --policy fixed; with cras the load decides")
    return Service(spec, limits, CrasPolicy(TICK))


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--listen must be HOST:PORT, such as 127.0.0.1:8000, not {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _require_libraries() -> None:
    try:
        import prometheus_client
        import starlette
        import uvicorn
    except ImportError as error:
        raise ConfigError(f"serve needs {error.name}: pip install 'dlrmjit[serve]'") from None
    del prometheus_client, starlette, uvicorn
