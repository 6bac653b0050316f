"""The pictures of runs have the numbers of their logs, in vectors."""

import re

import pytest

pytest.importorskip("plotly", reason="needs plotly: pip install 'dlrmjit[report]'")
pytest.importorskip("matplotlib", reason="needs Matplotlib: pip install 'dlrmjit[report]'")

from dlrmjit.cli.insight.plot import main
from dlrmjit.errors import ConfigError, DataError
from dlrmjit.report import picture, read_log
from dlrmjit.report.page import SECTIONS
from tests.report.test_report import log_lines, logs, write_log  # noqa: F401


def paths_of(svg):
    """Return the points of every curve of a picture, in its own units."""
    found = re.findall(r'<g id="line2d_\d+">\s*<path d="([^"]*)" clip-path', svg)
    return [[tuple(map(float, p.split())) for p in re.split("[ML]", d) if p.strip()] for d in found]


def test_a_curve_has_the_shape_of_the_logged_numbers(logs):  # noqa: F811
    runs = [read_log(path) for path in logs]
    svg = picture(runs, "svg", ["loss"]).decode()
    curves = [points for points in paths_of(svg) if len(points) == 30]
    for run, points in zip(runs, curves, strict=True):
        heights = [y for _, y in points]
        losses = run.column("step", "loss")
        share = (heights[0] - heights[9]) / (heights[0] - heights[29])  # of the fall of 30 steps
        assert share == pytest.approx((losses[0] - losses[9]) / (losses[0] - losses[29]), abs=1e-4)


@pytest.mark.parametrize("name", [section.name for section in SECTIONS])
def test_every_figure_of_the_page_is_drawn(logs, name):  # noqa: F811
    runs = [read_log(path) for path in logs]
    svg = picture(runs, "svg", [name])
    assert svg.startswith(b"<?xml")
    assert svg == picture(runs, "svg", [name])  # the same logs, the same bytes
    assert len(paths_of(svg.decode())) + svg.count(b'<g id="patch_') > 3


def test_bars_have_the_names_of_what_they_show(logs):  # noqa: F811
    from matplotlib.figure import Figure

    from dlrmjit.report.picture import draw
    from dlrmjit.report.speed import stacked_step

    axes = Figure().add_subplot()
    draw(axes, stacked_step([read_log(path) for path in logs]))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches[::2]] == [(0, 1.0), (1.0, 0.5)]
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_command_replaces_its_own_pictures_and_no_other_file(tmp_path, logs, ending, capsys):  # noqa: F811
    out = tmp_path / f"runs.{ending}"
    words = [str(logs[0]), str(logs[1]), "--out", str(out)]
    assert main(words) == 0
    first = out.read_bytes()
    assert main([*words, "--figures", "loss,rate", "--title", "two runs"]) == 0
    assert out.read_bytes() != first
    out.write_text("notes")
    assert main(words) == 2
    assert out.read_text() == "notes"
    assert "exists already" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_refused_by_name(tmp_path, logs, capsys):  # noqa: F811
    run = read_log(logs[0])
    with pytest.raises(ConfigError, match="no figure 'lost'; there are loss"):
        picture([run], "svg", ["lost"])
    with pytest.raises(ConfigError, match="svg, pdf, png"):
        picture([run], "gif")
    events = [event for event in log_lines() if event["event"] in ("start", "step")]
    short = read_log(write_log(tmp_path / "short.jsonl", events))
    with pytest.raises(DataError, match="figure roofline; run with --log-details"):
        picture([short], "svg", ["roofline"])
    start = read_log(write_log(tmp_path / "start.jsonl", events[:1]))
    with pytest.raises(DataError, match="no step and no test"):
        picture([start], "svg")
    assert main([str(logs[0]), "--out", str(tmp_path / "x.gif")]) == 2
    assert "should end in one of .svg" in capsys.readouterr().err
