"""``plan --advise``: how to train a model, as a table and a command line."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from importlib.util import find_spec

from dlrmjit.advice import Advice, Machine, Network, Target, advise
from dlrmjit.advice.advise import BATCHES, rank_counts
from dlrmjit.advice.cost import Setup
from dlrmjit.advice.machine import ASSUMED, Measured, StepCosts
from dlrmjit.config.presets import Preset, preset
from dlrmjit.errors import ConfigError, format_gib
from dlrmjit.perf.roofline import Ceilings
from dlrmjit.precision import Precision

_SECONDS_OF_ONE, _SECONDS_OF_RANKS = 4.0, 5.0  # that the steps of a measurement take


def print_advice(options: argparse.Namespace) -> Advice:
    """Print the advice that the options ask for, and return it."""
    _check(options)
    chosen = preset(options.config, options.max_ind_range)
    machine = _machine(options, chosen)
    memory = None if options.memory is None else int(options.memory * 2**30)
    target = Target(
        options.target_efficiency, memory, options.samples, options.hours, options.noise
    )
    found = advise(
        chosen.architecture,
        machine,
        chosen.lookups_per_table,
        target,
        most_ranks=options.ranks,
        precisions=_precisions(options),
        batches=_batches(options, chosen),
    )
    print(_table(found, machine, options, chosen))
    return found


def _check(options: argparse.Namespace) -> None:
    if (options.samples is None) != (options.hours is None):
        raise ConfigError("--samples and --hours are given together, or neither is")
    if options.network and len(options.network) != 2:
        raise ConfigError("--network needs two numbers: microseconds and GB/s, such as 3-12.5")
    if options.batch_size and options.noise:
        raise ConfigError("--noise chooses the batch size: leave out --batch-size")
    if options.hosts > 1 and not options.network:
        raise ConfigError("several --hosts need the --network between them, such as 3-12.5")
    if options.measure and options.cpus:
        raise ConfigError("--measure measures this machine, with its own CPUs: leave out --cpus")


def _batches(options: argparse.Namespace, chosen: Preset) -> tuple[int, ...]:
    return BATCHES if options.noise else (options.batch_size or chosen.batch_size,)


def _precisions(options: argparse.Namespace) -> tuple[Precision, ...]:
    return ("fp32", "bf16") if options.precision == "any" else (options.precision,)


def _machine(options: argparse.Namespace, chosen: Preset) -> Machine:
    from dlrmjit_kernels.runtime.buffers import available_memory
    from dlrmjit_kernels.runtime.target import current_target
    from dlrmjit_kernels.runtime.threads import available_cpus

    cpus = options.cpus or available_cpus()
    assumed = Ceilings(cpus * ASSUMED.fma_peak_gflops, cpus * ASSUMED.triad_gbs)
    machine = Machine(cpus, available_memory(), assumed, hosts=options.hosts)
    machine = replace(machine, bf16_gain=1.5 if current_target().bf16 else 1.0)
    if options.network:
        latency, bandwidth = options.network
        machine = replace(machine, network=Network(1e-6 * latency, 1e9 * bandwidth))
    return _measured(machine, options, chosen) if options.measure else machine


def _measured(machine: Machine, options: argparse.Namespace, chosen: Preset) -> Machine:
    """Return the machine with the costs of one process, and of ranks where MPI can start them."""
    from dlrmjit.advice.measure import SIZES, measure_costs, sizes_for
    from dlrmjit.cli.report.machine import use_threads

    if chosen.family != "dlrm":
        raise ConfigError(f"--measure measures DLRMs, and {options.config} is a {chosen.family}")
    use_threads(None)
    precisions = _precisions(options)
    # A rank on another host has a part of a batch, and a part of its fixed costs.
    sizes = SIZES if machine.hosts > 1 else sizes_for(_batches(options, chosen))
    costs: dict[Measured, StepCosts] = {
        (1, "auto", precision): measure_costs(
            chosen.model,
            chosen.lookups_per_table,
            precision,
            chosen.optimizer,
            _SECONDS_OF_ONE / len(precisions),
            sizes,
        )
        for precision in precisions
    }
    if machine.hosts == 1:
        costs |= _measured_ranks(machine, options, sizes)
    return replace(machine, measured=costs)


def _measured_ranks(
    machine: Machine, options: argparse.Namespace, sizes: tuple[int, ...]
) -> dict[Measured, StepCosts]:
    """Return the costs of steps of several ranks; none, with a note, if they cannot be started."""
    from dlrmjit.advice.measure import KINDS
    from dlrmjit.parallel.comm.job import launcher, run_job

    counts = [count for count in rank_counts(machine, options.ranks) if count > 1]
    words = launcher() if find_spec("mpi4py") else []
    if not words or not counts:
        if counts:
            _note("several ranks need pip install 'dlrmjit[mpi]', so one rank is considered")
        return {}
    counts = [counts[0], counts[-1]] if len(counts) > 1 else counts
    precisions = _precisions(options)
    asked = {
        "config": options.config,
        "max_rows": options.max_ind_range,
        "kinds": KINDS,
        "precisions": precisions,
        "seconds": _SECONDS_OF_RANKS / len(counts) / len(KINDS) / len(precisions),
        "sizes": sizes,
    }
    costs: dict[Measured, StepCosts] = {}
    for count in counts:
        found, error = run_job(
            words, count, "dlrmjit.advice.ranks", json.dumps(asked), seconds=120.0, key="costs"
        )
        if found is None:
            _note(f"{count} ranks are not considered: {error}")
            continue
        for kind, precision, times in found["costs"]:
            costs[count, kind, precision] = StepCosts(tuple((n, each) for n, each in times))
    return costs


def _note(text: str) -> None:
    print(f"dlrmjit: note: {text}", file=sys.stderr)


def _table(found: Advice, machine: Machine, options: argparse.Namespace, chosen: Preset) -> str:
    setup, predicted = found.setup, found.prediction
    basis = "measured here" if machine.measured else "from assumed speeds; --measure is better"
    rows = {
        "batch": f"{setup.n:,} samples",
        "ranks x threads": f"{setup.ranks} x {found.threads}, on {machine.hosts} hosts",
        "placement": setup.kind if setup.ranks > 1 else "all tables on the only rank",
        "communication": _communication(setup),
        "precision": setup.precision,
        "step": f"{1e3 * predicted.step:.2f} ms ({basis})",
        "of it exposed": f"{1e3 * predicted.exposed:.2f} ms of communication",
        "speed": f"{found.samples_per_second:,.0f} samples/s",
        "efficiency": f"{100 * found.efficiency:.0f} % of one rank on each host",
        "sent by a rank": f"{predicted.sent / 1e6:.2f} MB a step",
        "memory of a rank": format_gib(predicted.memory),
    }
    if options.samples:
        hours = options.samples / found.samples_per_second / 3600
        rows["time"] = f"{hours:.2f} hours for {options.samples:,} samples"
    lines = [f"{name:18} {value}" for name, value in rows.items()]
    lines.append(f"{'considered':18} {found.considered} setups that fit the memory")
    if options.explain:
        lines += ["", *found.explain(), *_noise_lines(options, setup.n)]
    extra = f" --max-ind-range={options.max_ind_range}" if options.max_ind_range else ""
    return "\n".join([*lines, "", found.command(options.config, options.json or "") + extra])


def _communication(setup: Setup) -> str:
    if setup.ranks == 1:
        return "none"
    return setup.comm + (f", {setup.parts} micro-batches" if (setup.parts or 1) > 1 else "")


def _noise_lines(options: argparse.Namespace, n: int) -> list[str]:
    if not options.noise:
        return []
    return [
        f"Noise: with a noise scale of {options.noise:,.0f} samples, batches of {n:,} need "
        f"{1 + options.noise / n:.2f} times the least number of steps."
    ]
