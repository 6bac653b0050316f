"""Pictures of benchmark results; matplotlib is needed here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def roofline(machine: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """Draw matrix products as points under the machine's two ceilings, and save the picture.

    The intensity of a product is its flops over the bytes of its three matrices, each moved once.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    peak, bandwidth = machine["fma_peak_gflops"], machine["triad_gbs"]
    intensities = np.logspace(-1, 3, 200)
    axes.loglog(intensities, np.minimum(peak, bandwidth * intensities), "k-", label="ceiling")
    for op in dict.fromkeys(row["op"] for row in rows if len(row["shape"]) == 3):
        points = [(_intensity(row["shape"]), row["gflops"]) for row in rows if row["op"] == op]
        axes.loglog(*zip(*points, strict=True), "o", markersize=4, label=op)
    axes.set_xlabel("flops per byte of the operands")
    axes.set_ylabel("Gflop/s")
    axes.set_title(f"{machine['cpu']}, {machine['isa']}, {machine['threads']} threads")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def step(row: Mapping[str, Any], ceilings: Mapping[str, float], path: str) -> None:
    """Draw a step by operation next to whole steps of peers, and its roofline; save the picture.

    All bars are medians of the same alternated samples; ours is cut in the proportions of its
    profile, which is measured apart. Colours come in pairs: dark forward, light backward.
    """
    from matplotlib.figure import Figure

    from dlrmjit.report.picture import draw
    from dlrmjit.report.run_log import RunLog
    from dlrmjit.report.speed import roofline as drawn_roofline

    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    bars, roof = figure.subplots(1, 2)
    parts = [line for line in row["breakdown"] if line["name"] != "step"]
    scale = 1e3 * row["median_s"] / sum(line["ms"] for line in parts)
    left = 0.0
    for line, colour in zip(parts, step_colours([p["name"] for p in parts]), strict=True):
        width = scale * line["ms"]
        bars.barh("dlrmjit", width, left=left, label=line["name"], color=colour, edgecolor="white")
        left += width
    for name, seconds in row["peers_median_s"].items():
        bar = bars.barh(name, 1e3 * seconds, color="lightgrey")
        bars.bar_label(bar, [f"{seconds / row['median_s']:.2f} x"], padding=3, fontsize=9)
    bars.set_xlabel("ms per step, median")
    bars.set_title(f"{row['op']}, N = {row['shape']['N']}")
    bars.invert_yaxis()
    bars.margins(x=0.2)
    bars.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    events = {"operations": [{"lines": row["breakdown"], "ceilings": dict(ceilings)}]}
    points = drawn_roofline([RunLog("dlrmjit", events)])
    if points is not None:
        draw(roof, points)
    figure.savefig(path, dpi=150)


def ladder(steps: Sequence[tuple[str, float]], title: str, path: str) -> None:
    """Draw the milliseconds of each rung, and how many times as fast as the first it is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.5 + 0.5 * len(steps)), layout="constrained")
    axes = figure.subplots()
    names, times = zip(*steps, strict=True)
    ours = ["tab:blue" if name.startswith("dlrmjit") else "lightgrey" for name in names]
    bars = axes.barh(names, times, color=ours)
    labels = [f"{time:,.3g} ms, {times[0] / time:.1f} x" for time in times]
    axes.bar_label(bars, labels, padding=3, fontsize=9)
    axes.set_xlabel("ms per training step, median")
    axes.set_title(title)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    figure.savefig(path, dpi=150)


def step_colours(names: Sequence[str]) -> list[tuple[float, float, float, float]]:
    """Return a colour for each operation, all different up to 20 pairs of layers."""
    from matplotlib import colormaps

    pairs = [colormaps[name](i) for name in ("tab20", "tab20b") for i in range(20)]
    layers = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in names))
    return [
        pairs[(2 * layers.index(name.rsplit(" ", 1)[0]) + name.endswith("backward")) % len(pairs)]
        for name in names
    ]


def _intensity(shape: Mapping[str, int]) -> float:
    a, b, c = shape.values()
    return 2.0 * a * b * c / (4.0 * (a * b + b * c + a * c))


def scaling(rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """Draw predicted speed-ups over ranks, one panel for strong and one for weak scaling."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(12, 5))
    for axes, mode in zip(panels, ("strong", "weak"), strict=True):
        selected = [row for row in rows if row["op"] == mode]
        for key in dict.fromkeys((row["shape"]["config"], row["variant"]) for row in selected):
            line = [row for row in selected if (row["shape"]["config"], row["variant"]) == key]
            ranks = [row["shape"]["R"] for row in line]
            axes.plot(ranks, [row["speedup"] for row in line], "o-", label=", ".join(key))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_title(f"{mode} scaling")
        axes.set_xlabel("ranks")
        axes.set_ylabel("speed-up")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
