"""The machine's measured ceilings: fused multiply-adds in registers, and the STREAM triad.

Run alone it prints them; other benchmarks measure them in their own run and divide by them.
"""

from __future__ import annotations

from dlrmjit_kernels.machine_peaks import ceilings, fma_peak, triad

from bench.support import harness

__all__ = ["ceilings", "fma_peak", "triad"]


def main() -> None:
    """Print the ceilings."""
    arguments = harness.options(__doc__).parse_args()
    threads = harness.prepare(arguments.threads)
    found = ceilings(threads, 0.3 if arguments.quick else 2.0)
    report = harness.Report(harness.describe_machine(threads, found))
    for name, value in report.machine.items():
        print(f"{name:16} {value}")
    report.write(arguments.json)


if __name__ == "__main__":
    harness.run_program(main)
