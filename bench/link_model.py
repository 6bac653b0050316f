"""The step of a model on hosts with links, from a model of a few constants that runs calibrate.

    python -m bench.comm --config mlperf --max-rows 100000 --threads 1 --steps --json one.json
    python -m bench.cluster --gbit 1 -m bench.comm ... --link 1 --json two-1.json
    python -m bench.cluster --gbit 1 --processors 1 -m bench.comm ... --link 1 --json shared-1.json
    python -m bench.link_model --calibrate one.json,two-1.json,two-10.json,shared-1.json,\
        shared-10.json --predict three-1.json

Calibrates on the first reports, which need one process and two hosts at two rates, and compares its
predictions with all. A step of R hosts takes ``L + C - H``:

- L, the link: ``latency + headers * bytes * 8 / rate`` for the counted bytes of a host;
- C, computing on its own processor: ``fixed + shared / R``; with a thread for communication, which
  shares that processor, also ``per_byte`` for each byte that it moves;
- H, what overlaps. By calls between operations: sums take 2 (R - 1) rounds, of which calls complete
  ``rounds`` while the host computes, none around a ring; bytes that a processor handles at that
  time are not counted. By a thread, vectors travel during the ``bottom`` MLP's share of C, sums
  during a ``window`` of C. Nothing in blocking steps.

Where this machine has fewer processors than hosts, o of them share one and compute in turn: o C
instead of C. Two hosts on one processor, at three rates, say what else that changes: a host waits
``turn`` seconds of a step for the processor, a part ``other`` of its messages travels while another
host computes, but no longer than a part ``most`` of o C, and the window is another one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.support.harness import run_program
from dlrmjit.config.presets import preset

Row = dict[str, Any]
MODES = ("blocking", "overlap", "thread")


@dataclass(frozen=True)
class Sharing:
    """What sharing a processor with one more host changes."""

    turn: float
    other: float
    most: float
    window: float


@dataclass(frozen=True)
class Constants:
    """The constants of one configuration, in seconds and bytes: see the module."""

    fixed: float
    shared: float
    latency: float
    headers: float
    bottom: float
    per_byte: float = 0.0
    rounds: float = 0.0
    window: float = 0.0
    sharing: Sharing | None = None

    def step(self, row: Row) -> float:
        """Return the predicted seconds of a measured step."""
        computing = int(row["sharing"]) * self.computing(row)
        return self.link(row) + computing + self.waiting(row) - self.hidden(row)

    def computing(self, row: Row) -> float:
        """Return the seconds that a host computes."""
        moved = self.per_byte * _sent(row) if row["variant"] == "thread" else 0.0
        return self.fixed + self.shared / int(row["shape"]["R"]) + moved

    def link(self, row: Row, operation: str = "") -> float:
        """Return the seconds that the bytes of a host take on its link, of one operation or all."""
        part = row["sent"].get(operation, 0) / _sent(row) if operation else 1.0
        return part * (self.latency + self.headers * _nominal(row))

    def waiting(self, row: Row) -> float:
        """Return the seconds that hosts wait for the others on their processor, less what hides.

        A thread takes turns with the others all the time; what it hides is in :meth:`hidden`.
        """
        hosts = int(row["sharing"])
        if hosts == 1 or row["variant"] == "thread":
            return 0.0
        sharing = self._known_sharing()
        hidden = min(sharing.other * self.link(row), sharing.most * hosts * self.computing(row))
        return (hosts - 1) * (sharing.turn - hidden)

    def hidden(self, row: Row) -> float:
        """Return the seconds of messages that overlap with computing."""
        if row["variant"] == "overlap":
            return 0.0 if is_ring(int(row["shape"]["R"])) else self.rounds * self.a_round(row)
        if row["variant"] == "blocking":
            return 0.0
        computing = int(row["sharing"]) * self.computing(row)
        window = self.window if row["sharing"] == 1 else self._known_sharing().window
        vectors = min(self.link(row, "alltoall"), self.bottom * computing)
        return vectors + min(self.link(row, "allreduce"), window * computing)

    def a_round(self, row: Row) -> float:
        """Return the seconds of a round of sums in which no processor handles bytes."""
        handled = self.per_byte * int(row["sent"].get("allreduce", 0))
        return max(0.0, self.link(row, "allreduce") - handled) / (2 * (int(row["shape"]["R"]) - 1))

    def _known_sharing(self) -> Sharing:
        if self.sharing is None:
            raise ValueError("hosts share a processor: calibrate on two hosts on one, too")
        return self.sharing


def calibrate(rows: Sequence[Row]) -> Constants:
    """Return constants from steps of one process and of two hosts at two rates of their links.

    With two hosts on one processor at three rates, sharing is calibrated, too. Raises ValueError
    without the first.
    """
    single = [row for row in rows if row["shape"]["R"] == 1]
    pairs = {mode: _by_rate(rows, mode, sharing=1) for mode in MODES}
    if not single or any(len(found) < 2 for found in pairs.values()):
        raise ValueError("calibrate on one process, and on two hosts at two rates of their links")
    slow, fast = pairs["blocking"][0], pairs["blocking"][-1]
    two = (slow["computing_ms"] + fast["computing_ms"]) / 2000
    shared = 2 * (single[0]["median_s"] - two)
    links = [row["median_s"] - row["computing_ms"] / 1000 for row in (slow, fast)]
    headers = (links[0] - links[1]) / (_nominal(slow) - _nominal(fast))
    latency = links[1] - headers * _nominal(fast)
    found = Constants(two - shared / 2, shared, latency, headers, _bottom_share(slow))
    return _with_sharing(_with_overlap(found, pairs["thread"], pairs["overlap"][0]), rows)


def _with_overlap(found: Constants, threads: Sequence[Row], calls: Row) -> Constants:
    """Return the constants with what a thread and calls hide over the slow link."""
    slow = threads[0]
    more = [row["computing_ms"] / 1000 - found.computing(row) for row in threads]
    found = replace(found, per_byte=max(0.0, sum(more) / len(more)) / _sent(slow))
    hidden = found.link(calls) + found.computing(calls) - calls["median_s"]
    rounds = max(0.0, hidden / found.a_round(calls))
    return replace(found, window=_window(found, slow), rounds=rounds)


def _window(found: Constants, row: Row) -> float:
    """Return the share of computing during which a thread's sums travelled over a slow link."""
    computing = row["sharing"] * found.computing(row)
    hidden = found.link(row) + computing - row["median_s"]
    return float(max(0.0, hidden / computing - found.bottom))


def _with_sharing(found: Constants, rows: Sequence[Row]) -> Constants:
    """Return the constants with those of hosts on one processor, if there are steps of two."""
    blocking, threads = (_by_rate(rows, mode, sharing=2) for mode in ("blocking", "thread"))
    if len(blocking) < 3 or not threads:
        return found
    slow, middle, fast = (row["median_s"] - _in_turn(found, row) for row in blocking)
    links = [found.link(row) for row in blocking]
    other = (fast - middle) / (links[1] - links[2])
    turn = fast + other * links[2]
    most = (turn - slow) / (2 * found.computing(blocking[0]))
    return replace(found, sharing=Sharing(turn, other, most, _window(found, threads[0])))


def _in_turn(found: Constants, row: Row) -> float:
    """Return the seconds of a step of two hosts that compute one after the other."""
    return found.link(row) + 2 * found.computing(row)


def is_ring(hosts: int) -> bool:
    """Return whether so many hosts sum around a ring, as the product has MPICH do."""
    return hosts & (hosts - 1) != 0


def _bottom_share(row: Row) -> float:
    """Return the share of the bottom MLP in the products of a step."""
    model = preset(row["shape"]["config"]).model
    bottom = sum(c * k for c, k in model.bottom_layers)
    return bottom / (bottom + sum(c * k for c, k in model.top_layers))


def _by_rate(rows: Sequence[Row], mode: str, *, sharing: int) -> list[Row]:
    """Return steps of two hosts from the slowest to the fastest link; none of one rate only."""
    of_two = [row for row in rows if row["shape"]["R"] == 2 and row["variant"] == mode]
    of_two = [row for row in of_two if row["sharing"] == sharing]
    of_two.sort(key=lambda row: float(row["gbit"]))
    return of_two if len({row["gbit"] for row in of_two}) > 1 else []


def _sent(row: Row) -> int:
    """Return the bytes that a host sends in a step."""
    return int(sum(row["sent"].values()))


def _nominal(row: Row) -> float:
    """Return the seconds of the counted bytes at the rate of the link."""
    return float(8 * _sent(row) / (row["gbit"] * 1e9))


def _rows(paths: str) -> list[Row]:
    """Return the steps of reports, each with the rate of its links."""
    found = []
    for path in filter(None, paths.split(",")):
        report = json.loads(Path(path).read_text())
        found += [
            {**row, "gbit": report.get("gbit")} for row in report["rows"] if row["op"] == "step"
        ]
    return found


def main() -> None:
    """Calibrate, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrate", required=True, help="JSON files of bench.comm, by comma")
    parser.add_argument("--predict", default="", help="JSON files of runs to predict, by comma")
    options = parser.parse_args()
    known = _rows(options.calibrate)
    constants = calibrate(known)
    print(
        f"computing {1e3 * constants.fixed:.1f} ms and {1e3 * constants.shared:.1f} ms divided by "
        f"hosts; links {constants.headers:.3f} of the counted bytes and "
        f"{1e3 * constants.latency:.1f} ms"
    )
    print(
        f"a thread takes {1e9 * constants.per_byte:.2f} ns a byte; sums travel during "
        f"{constants.window:.2f} of computing; calls complete {constants.rounds:.2f} rounds"
    )
    if constants.sharing:
        print(
            f"hosts on one processor wait {1e3 * constants.sharing.turn:.1f} ms for it; "
            f"{constants.sharing.other:.2f} of messages travel while another computes, for "
            f"{constants.sharing.most:.2f} of computing at most, sums during "
            f"{constants.sharing.window:.2f}"
        )
    for name, rows in (("calibrated", known), ("predicted", _rows(options.predict))):
        for row in rows:
            if row["variant"] in MODES:
                print(f"{name:10} {_line(row, constants)}")


def _line(row: Row, constants: Constants) -> str:
    hosts, rate, found = row["shape"]["R"], row["gbit"] or 0, constants.step(row)
    sharing = f", {row['sharing']} a processor," if row["sharing"] > 1 else ""
    return (
        f"{row['shape']['config']:7} {hosts} hosts{sharing} at {rate:g} Gbit/s {row['variant']:9} "
        f"measured {1e3 * row['median_s']:6.1f} ms, model {1e3 * found:6.1f} ms "
        f"({100 * (found / row['median_s'] - 1):+.1f} %)"
    )


if __name__ == "__main__":
    run_program(main)
