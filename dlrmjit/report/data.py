"""What the data and the predictions are like: lookups of tables, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlrmjit.report.run_log import RunLog
from dlrmjit.report.style import colour, figure


def access(runs: Sequence[RunLog]) -> Any:
    """Return, for each table, the share of lookups of its head, and of a batch that is distinct."""
    import plotly.graph_objects as go

    traces = []
    for number, run in enumerate(runs):
        tables = run.last("access").get("tables", ())
        if not tables:
            continue
        x = [table["table"] for table in tables]
        text = [f"{t['rows']:,} rows, {t['rows_seen']:,} seen" for t in tables]
        distinct = [
            100 * table["unique_per_batch"] / max(table["lookups_per_batch"], 1e-9)
            for table in tables
        ]
        head = [100 * table["head_share"] for table in tables]
        for title, y, opacity in (
            ("lookups of the 1 % most frequent rows", head, 1.0),
            ("distinct rows of a batch's lookups", distinct, 0.45),
        ):
            name, marker = f"{run.name}: {title}", {"color": colour(number), "opacity": opacity}
            traces.append(
                go.Bar(x=x, y=y, text=text, textposition="none", name=name, marker=marker)
            )
    return figure(traces, "table", "%", barmode="group", is_wide=True) if traces else None


def calibration(runs: Sequence[RunLog]) -> Any:
    """Return observed against predicted probabilities of the last test of each run."""
    import plotly.graph_objects as go

    traces: list[Any] = []
    for number, run in enumerate(runs):
        bins = run.last("calibration").get("bins", ())
        if not bins:
            continue
        largest = max(one["count"] for one in bins)
        traces.append(
            go.Scatter(
                x=[one["predicted"] for one in bins],
                y=[one["observed"] for one in bins],
                text=[f"{one['count']:,} samples" for one in bins],
                name=run.name,
                mode="lines+markers",
                line={"color": colour(number)},
                marker={"size": [6 + 16 * (one["count"] / largest) ** 0.5 for one in bins]},
            )
        )
    if traces:
        line = {"color": "gray", "dash": "dot"}
        traces.append(go.Scatter(x=[0, 1], y=[0, 1], name="ideal", mode="lines", line=line))
    return figure(traces, "predicted", "observed", height=420) if traces else None
