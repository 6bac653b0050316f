"""Chooses among all ways to train a model the fastest that fits the memory and the target."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from dlrmjit.advice import lemmas
from dlrmjit.advice.cost import Prediction, Setup, measured_costs, predict
from dlrmjit.advice.machine import Machine
from dlrmjit.config.model import AnyModelConfig
from dlrmjit.config.optimizer import UpdateConfig
from dlrmjit.errors import ConfigError, MemoryLimitError, format_gib
from dlrmjit.parallel.plan import KINDS, Plan
from dlrmjit.parallel.planner import propose

BATCHES = tuple(2**i for i in range(7, 15))  # 128 to 16384
_BETWEEN_HOSTS = (*product(("overlap", "thread"), (1, 2, 4, 8)), ("blocking", 1))
_ON_ONE_HOST = (("overlap", None), ("blocking", None))


@dataclass(frozen=True)
class Target:
    """What a training must reach.

    ``efficiency`` is the least speed-up per rank, ``memory`` the most bytes of a rank, ``samples``
    in ``hours`` the least speed. ``noise`` is the noise scale of the gradient in samples: with it
    batches of different sizes are compared by the steps that they need.
    """

    efficiency: float = 0.0
    memory: int | None = None
    samples: int | None = None
    hours: float | None = None
    noise: float | None = None


@dataclass(frozen=True)
class Advice:
    """The chosen setup, its prediction, efficiency and words for ``train``, and the runners-up."""

    setup: Setup
    prediction: Prediction
    efficiency: float
    threads: int
    considered: int
    others: tuple[tuple[Setup, Prediction], ...] = ()

    @property
    def samples_per_second(self) -> float:
        """Predicted speed of all ranks."""
        return self.setup.n / self.prediction.step

    def command(self, config: str, plan_file: str = "") -> str:
        """Return the command line that trains the preset ``config`` so."""
        setup = self.setup
        words = ["python", "-m", "dlrmjit.train", f"--config={config}"]
        words += [f"--mini-batch-size={setup.n}", f"--precision={setup.precision}"]
        words.append(f"--threads={self.threads}")
        if setup.ranks == 1:
            return shlex.join(words)
        plan = plan_file or setup.kind
        words += [f"--plan={plan}", f"--comm={setup.comm}"]
        if setup.parts is not None:
            words.append(f"--micro-batches={setup.parts}")
        return shlex.join(["mpiexec", "-n", str(setup.ranks), *words])

    def explain(self) -> list[str]:
        """Return the lemmas with the numbers of this advice, a sentence each."""
        found, ranks = self.prediction, self.setup.ranks
        if ranks == 1:
            return ["One rank sends no messages: its efficiency is 1 by definition."]
        ratio = found.exposed / (found.compute * ranks)
        most = lemmas.most_ranks(ratio, 0.8)
        bandwidth = lemmas.needed_bandwidth(found.sent, found.compute)
        return [
            f"Lemma 1: exposed communication is R_O = {ratio:.4f} of the computation of one rank "
            f"alone, so {ranks} ranks run at (1 + R_O) / (1 + {ranks} R_O) = "
            f"{100 * lemmas.efficiency(ratio, ranks):.1f} %, and at most {most:.0f} at 80 %.",
            f"Lemma 2: a rank sends {found.sent / 1e6:.2f} MB a step and computes for "
            f"{1e3 * found.compute:.2f} ms; messages could hide behind that on a network of "
            f"{bandwidth / 1e9:.2f} GB/s.",
        ]


def advise(
    config: AnyModelConfig,
    machine: Machine,
    lookups: Sequence[int],
    target: Target | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    most_ranks: int | None = None,
    precisions: Sequence[str] = ("fp32",),
    update: UpdateConfig | None = None,
) -> Advice:
    """Return the setup with the most samples per second, or the fewest seconds to a result.

    Parameters
    ----------
    config : the model
    machine : what it runs on
    lookups : lookups per bag of each table
    target : what to reach
    batches : numbers of samples of all ranks to choose from
    most_ranks : ranks to consider, by default as many as all hosts have CPUs

    Raises
    ------
    MemoryLimitError
        If nothing fits the memory.
    ConfigError
        If no setup that fits reaches the target.
    """
    target, model, per_table = target or Target(), config.architecture, tuple(lookups)
    memory = target.memory or machine.memory
    found: list[tuple[Setup, Prediction]] = []
    smallest: tuple[float, int, int] | None = None
    for setup in _setups(config, machine, per_table, batches, most_ranks, precisions, memory):
        prediction = predict(model, per_table, setup, machine, update)
        of_host = prediction.memory * -(-setup.ranks // machine.hosts)
        need = max(prediction.memory / memory, of_host / machine.memory)
        candidate = (need, prediction.memory, of_host)
        smallest = min(smallest or candidate, candidate)
        if need <= 1:
            found.append((setup, prediction))
    if not found:
        raise _nothing_fits(memory, machine, smallest)
    single = _speeds_of_one_rank(config, machine, per_table, batches, precisions, update)
    good = [pair for pair in found if _reaches(target, pair, single, machine)]
    if not good:
        raise ConfigError(
            f"none of {len(found)} ways that fit the memory reaches the target; lower it, or use "
            "more hosts, a faster network or larger batches"
        )
    good.sort(key=lambda pair: _cost_of_result(pair, target))
    setup, prediction = good[0]
    threads = max(1, machine.cpus * machine.hosts // setup.ranks)
    alpha = _efficiency(good[0], single, machine)
    return Advice(setup, prediction, alpha, threads, len(found), tuple(good[1:6]))


def _setups(
    config: AnyModelConfig,
    machine: Machine,
    lookups: tuple[int, ...],
    batches: Sequence[int],
    most_ranks: int | None,
    precisions: Sequence[str],
    memory: int,
) -> Iterator[Setup]:
    """Yield all ways to train that the product has; of one host, those that were measured if any.

    Guesses are not compared with measurements, which have costs that no guess counts.
    """
    only_measured = bool(machine.measured) and machine.hosts == 1
    limit = most_ranks or machine.cpus * machine.hosts
    for ranks in rank_counts(machine, limit):
        for kind, plan in _plans(config, lookups, ranks, memory):
            comms = _BETWEEN_HOSTS if machine.hosts > 1 else _ON_ONE_HOST
            for n, precision, (comm, parts) in product(
                batches, precisions, comms if ranks > 1 else _ON_ONE_HOST[:1]
            ):
                setup = Setup(n, ranks, precision, comm, kind, plan, parts)
                if n >= ranks and (not only_measured or measured_costs(machine, setup)):
                    yield setup


def rank_counts(machine: Machine, limit: int) -> list[int]:
    """Return numbers of ranks that divide the CPUs of the hosts evenly."""
    each = [count for count in range(1, machine.cpus + 1) if machine.cpus % count == 0]
    counts = {count * machine.hosts for count in each} | ({1} if machine.hosts == 1 else set())
    return sorted(count for count in counts if count <= limit)


def _plans(
    config: AnyModelConfig, lookups: tuple[int, ...], ranks: int, memory: int
) -> Iterator[tuple[str, Plan]]:
    specs = config.architecture.table_specs
    rows, dims = [spec.rows for spec in specs], [spec.dim for spec in specs]
    each = [lookups[spec.column] for spec in specs]
    for kind in ("auto", *KINDS) if ranks > 1 else ("auto",):
        try:
            yield kind, propose(rows, dims, ranks, kind=kind, lookups=each, memory=memory)
        except (ConfigError, MemoryLimitError):
            continue


def _speeds_of_one_rank(
    config: AnyModelConfig,
    machine: Machine,
    lookups: tuple[int, ...],
    batches: Sequence[int],
    precisions: Sequence[str],
    update: UpdateConfig | None,
) -> dict[tuple[int, str], float]:
    """Return the samples per second of one rank with all CPUs of a host, by batch and precision."""
    specs = config.architecture.table_specs
    plan = propose([s.rows for s in specs], [s.dim for s in specs], 1)
    speeds = {}
    for n, precision in product(batches, precisions):
        setup = Setup(n, 1, precision, "overlap", "auto", plan)
        alone = Machine(**{**vars(machine), "hosts": 1})
        found = predict(config.architecture, lookups, setup, alone, update)
        speeds[n, precision] = n / found.step
    return speeds


def _efficiency(
    pair: tuple[Setup, Prediction], single: dict[tuple[int, str], float], machine: Machine
) -> float:
    """Return the speed over that of one rank on one host, times the hosts."""
    setup, prediction = pair
    return setup.n / prediction.step / (single[setup.n, setup.precision] * machine.hosts)


def _reaches(
    target: Target,
    pair: tuple[Setup, Prediction],
    single: dict[tuple[int, str], float],
    machine: Machine,
) -> bool:
    setup, prediction = pair
    if _efficiency(pair, single, machine) < target.efficiency:
        return False
    if target.samples and target.hours:
        return target.samples / (setup.n / prediction.step) <= 3600 * target.hours
    return True


def _cost_of_result(pair: tuple[Setup, Prediction], target: Target) -> tuple[float, int]:
    """Return the seconds per sample, or to the result that steps S (1 + noise / n) reach."""
    setup, prediction = pair
    if target.noise is None:
        return prediction.step / setup.n, setup.n
    return prediction.step * (1 + target.noise / setup.n), setup.n


def _nothing_fits(
    memory: int, machine: Machine, smallest: tuple[float, int, int] | None
) -> MemoryLimitError:
    found = "no plan places the tables"
    if smallest:
        rank, host = format_gib(smallest[1]), format_gib(smallest[2])
        found = f"the setup that is closest needs {rank} a rank, {host} a host"
    return MemoryLimitError(
        f"no setup fits {format_gib(memory)} a rank and {format_gib(machine.memory)} a host: "
        f"{found}; use more memory, more hosts, smaller batches, or --embedding-dir"
    )
