"""The step of a model on hosts with links, from a model of a few constants that runs calibrate.

    python -m bench.comm --config mlperf --max-rows 100000 --threads 1 --quick --json one.json
    python -m bench.cluster --gbit 1 -m bench.comm --config mlperf ... --link 1 --json two-1.json
    python -m bench.link_model --calibrate one.json,two-1.json,two-10.json --predict three-1.json

Calibrates on the first reports, which need one process and two hosts at two rates, and compares its
predictions with all. A step of R hosts takes ``L + o C - H``:

- L, the link: ``latency + headers * bytes * 8 / rate`` for the counted bytes of a host;
- C, computing on its own processor: ``fixed + shared / R``; with a thread for communication, which
  shares that processor, also ``per_byte`` for each byte that it moves;
- o, the hosts that share a processor, because this machine has fewer: they compute in turn;
- H, what overlaps. By calls between operations, which a host makes while it has its processor, a
  ``share`` / o of the time in which the link moves bytes that no processor handles. By a thread,
  vectors travel during the ``bottom`` MLP's share of o C, sums during a ``window`` of o C. Nothing
  in blocking steps.

Hosts that share a processor also wait for each other's messages to be handled, which is not in the
model: trust it where links take longer than computing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.support.harness import run_program
from dlrmjit.config.presets import preset

Row = dict[str, Any]
MODES = ("blocking", "overlap", "thread")


@dataclass(frozen=True)
class Constants:
    """The constants of one configuration, in seconds and bytes: see the module."""

    fixed: float
    shared: float
    latency: float
    headers: float
    bottom: float
    per_byte: float = 0.0
    share: float = 0.0
    window: float = 0.0

    def step(self, row: Row, sharing: int) -> float:
        """Return the predicted seconds of a measured step, of ``sharing`` hosts a processor."""
        return self.link(row) + sharing * self.computing(row) - self.hidden(row, sharing)

    def computing(self, row: Row) -> float:
        """Return the seconds that a host computes."""
        moved = self.per_byte * _sent(row) if row["variant"] == "thread" else 0.0
        return self.fixed + self.shared / int(row["shape"]["R"]) + moved

    def link(self, row: Row, operation: str = "") -> float:
        """Return the seconds that the bytes of a host take on its link, of one operation or all."""
        part = row["sent"].get(operation, 0) / _sent(row) if operation else 1.0
        return part * (self.latency + self.headers * _nominal(row))

    def hidden(self, row: Row, sharing: int) -> float:
        """Return the seconds of messages that overlap with computing."""
        if row["variant"] == "overlap":
            return self.share * self.unhandled(row) / sharing
        if row["variant"] == "blocking":
            return 0.0
        computing = sharing * self.computing(row)
        vectors = min(self.link(row, "alltoall"), self.bottom * computing)
        return vectors + min(self.link(row, "allreduce"), self.window * computing)

    def unhandled(self, row: Row) -> float:
        """Return the seconds in which the link moves bytes that no processor handles."""
        return max(0.0, self.link(row) - self.per_byte * _sent(row))


def calibrate(rows: Sequence[Row]) -> Constants:
    """Return constants from steps of one process and of two hosts at two rates of their links.

    Raises ValueError without these.
    """
    single = [row for row in rows if row["shape"]["R"] == 1]
    pairs = {mode: _by_rate(rows, mode) for mode in MODES}
    if not single or any(len(found) < 2 for found in pairs.values()):
        raise ValueError("calibrate on one process, and on two hosts at two rates of their links")
    slow, fast = pairs["blocking"]
    two = (slow["computing_ms"] + fast["computing_ms"]) / 2000
    shared = 2 * (single[0]["median_s"] - two)
    links = [row["median_s"] - row["computing_ms"] / 1000 for row in (slow, fast)]
    headers = (links[0] - links[1]) / (_nominal(slow) - _nominal(fast))
    latency = links[1] - headers * _nominal(fast)
    found = Constants(two - shared / 2, shared, latency, headers, _bottom_share(slow))
    return _with_overlap(found, pairs["thread"], pairs["overlap"][0])


def _with_overlap(found: Constants, threads: Sequence[Row], calls: Row) -> Constants:
    """Return the constants with what a thread and calls hide over the slow link."""
    slow = threads[0]
    more = [row["computing_ms"] / 1000 - found.computing(row) for row in threads]
    found = replace(found, per_byte=max(0.0, sum(more) / len(more)) / _sent(slow))
    computing = found.computing(slow)
    hidden = found.link(slow) + computing - slow["median_s"]
    window = max(0.0, hidden / computing - found.bottom)
    hidden = found.link(calls) + found.computing(calls) - calls["median_s"]
    return replace(found, window=window, share=max(0.0, hidden / found.unhandled(calls)))


def _bottom_share(row: Row) -> float:
    """Return the share of the bottom MLP in the products of a step."""
    model = preset(row["shape"]["config"]).model
    bottom = sum(c * k for c, k in model.bottom_layers)
    return bottom / (bottom + sum(c * k for c, k in model.top_layers))


def _by_rate(rows: Sequence[Row], mode: str) -> list[Row]:
    """Return steps of two hosts, those with the slowest and the fastest link."""
    of_two = [row for row in rows if row["shape"]["R"] == 2 and row["variant"] == mode]
    of_two.sort(key=lambda row: float(row["gbit"]))
    return [of_two[0], of_two[-1]] if len({row["gbit"] for row in of_two}) > 1 else []


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
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1, help="of the machine")
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
        f"{constants.window:.2f} of computing; calls hide {constants.share:.2f} of what no "
        "processor handles"
    )
    for name, rows in (("calibrated", known), ("predicted", _rows(options.predict))):
        for row in rows:
            if row["variant"] in MODES:
                print(f"{name:10} {_line(row, constants, options.cpus)}")


def _line(row: Row, constants: Constants, cpus: int) -> str:
    hosts, rate = row["shape"]["R"], row["gbit"] or 0
    found = constants.step(row, math.ceil(hosts / cpus))
    return (
        f"{row['shape']['config']:7} {hosts} hosts at {rate:g} Gbit/s {row['variant']:9} "
        f"measured {1e3 * row['median_s']:6.1f} ms, model {1e3 * found:6.1f} ms "
        f"({100 * (found / row['median_s'] - 1):+.1f} %)"
    )


if __name__ == "__main__":
    run_program(main)
