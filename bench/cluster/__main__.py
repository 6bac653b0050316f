"""Run a program on hosts that are network namespaces of this machine, over links of some bandwidth.

    python -m bench.cluster [--hosts 2] [--gbit 1] [--cpus 1] -m bench.comm --config mlperf

With ``--processors P`` hosts are on the first P processors of this machine, in turn. Everything
after the options is for ``python``, which ``mpiexec`` starts once per host, over TCP. Says at the
end what travelled on the link of each host, headers included. Needs root and Linux's network
namespaces; elsewhere it says what is missing and exits with 2.
"""

from __future__ import annotations

import argparse
import sys

from bench.cluster.hosts import UnavailableError, cluster, run_job
from bench.support.harness import run_program


def main() -> int:
    """Run the program, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--gbit", type=float, default=1.0, help="of each link; 0: unlimited")
    parser.add_argument("--cpus", type=int, default=1, help="of each host")
    parser.add_argument("--processors", type=int, help="of this machine, by default all")
    options, words = parser.parse_known_args()
    try:
        with cluster(options.hosts, options.gbit, options.cpus, options.processors) as made:
            command = made.command([sys.executable, *words])
            code = run_job(command, made.environment())
            for name, moved in zip(made.names, made.traffic(), strict=True):
                print(
                    f"{name} sent {moved.sent / 1e6:.2f} MB and received {moved.received / 1e6:.2f}"
                )
            return code
    except UnavailableError as error:
        print(f"no hosts on this machine: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    run_program(main)
