"""The page of runs has the numbers of their logs, as a browser sees them."""

import html
import json
import re
import shutil
import subprocess

import pytest

from dlrmjit.cli.insight.report import main
from dlrmjit.errors import DataError
from dlrmjit.report import page, read_log
from dlrmjit.report.run_log import distinct_names
from dlrmjit.report.speed import _label_places, imbalance
from dlrmjit.report.style import legend_height, thinned

pytest.importorskip("plotly", reason="needs plotly: pip install 'dlrmjit[report]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
READ = """<script>setTimeout(async function wait() {
  if (document.documentElement.dataset.ready !== 'yes') return setTimeout(wait, 50);
  const values = {theme: document.documentElement.dataset.theme,
    requests: performance.getEntriesByType('resource').map(entry => entry.name)};
  for (const plot of document.querySelectorAll('.plot')) {
    values[plot.id] = plot.data.map(trace => ({name: trace.name, x: Array.from(trace.x),
      y: Array.from(trace.y), shown: plot.querySelectorAll('.main-svg').length}));
    values[plot.id + ' text'] = plot.layout.font.color;
  }
  const out = document.createElement('pre');
  out.id = 'values'; out.textContent = JSON.stringify(values); document.body.append(out);
}, 50);</script></body>"""


def log_lines(scale=1.0, ranks=1):
    """Return the events of a made-up run with everything that a log can have."""
    yield {
        "event": "start",
        "version": "1",
        "config": {"command": "python -m dlrmjit.train --x='<b>'", "ranks": ranks},
        "machine": {"cpu": "</script><b>"},
    }
    for step in range(1, 31):
        yield {"event": "step", "step": step, "ms": 2.0, "loss": scale / step, "lr": 0.1} | {
            "samples": 8,
            "samples_per_s": 4000.0 + step,
        }
        if step % 10 == 0:
            yield {"event": "eval", "step": step, "auc": 0.5 + step / 100, "logloss": 0.6 / scale}
            yield {"event": "memory", "step": step, "rss_bytes": step << 20}
            yield {"event": "gradient", "step": step, "mlp": 1.0 / step, "tables": 0.5 / step}
            dense = {"bot_l.0.weight": 1.0 + step, "bot_l.0.bias": 2.0}
            yield {"event": "norms", "step": step, "dense": dense, "tables": [0.25, 0.5 * step]}
            bins = [{"low": 0.1, "high": 0.15, "count": 9, "predicted": 0.125, "observed": 0.25}]
            yield {"event": "calibration", "step": step, "bins": bins}
    table = {"rows": 100, "lookups_per_batch": 8.0, "unique_per_batch": 6.0, "rows_seen": 50}
    tables = [{"table": i, **table, "head_share": 0.25 * (i + 1)} for i in range(2)]
    yield {"event": "access", "batches": 3, "samples": 24, "tables": tables}
    about = {"samples_per_step": 8, "lookups_per_step": 16, "peak_rss_bytes": 1}
    each = [
        {"rank": r, "compute_ms": 1.0 + r, "waiting_ms": {"alltoall": 0.5} if ranks > 1 else {}}
        for r in range(ranks)
    ]
    yield {"event": "ranks", "ranks": [rank | about for rank in each]}
    lines = [
        {"name": "bottom forward", "ms": 1.0, "gflops": 50.0, "gbs": None, "of_ceiling": 0.5}
        | {"least_bytes": 1e6},
        {"name": "embedding forward", "ms": 0.5, "gflops": None, "gbs": 8.0, "of_ceiling": 0.8}
        | {"least_bytes": 4e6},
        {"name": "step", "ms": 1.5, "gflops": 33.0, "gbs": 2.7, "of_ceiling": 0.6}
        | {"least_bytes": None},
    ]
    ceilings = {"fma_peak_gflops": 100.0, "triad_gbs": 10.0}
    yield {"event": "operations", "steps": 29, "lines": lines, "ceilings": ceilings}
    yield {"event": "end", "steps": 30, "seconds": 1.5, "peak_rss_bytes": 64 << 20}


def write_log(path, events):
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


@pytest.fixture
def logs(tmp_path):
    return [
        write_log(tmp_path / "a.jsonl", log_lines()),
        write_log(tmp_path / "b.jsonl", log_lines(2.0, 3)),
    ]


def figure(text, name):
    found = re.search(rf'data-plot="{name}">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def test_the_page_has_the_numbers_of_the_logs(logs):
    runs = [read_log(path) for path in logs]
    text = page(runs)
    for run, trace in zip(runs, figure(text, "loss")["data"], strict=True):
        assert trace["name"] == run.name
        assert trace["x"] == run.column("step", "step")
        assert trace["y"] == run.column("step", "loss")
    assert figure(text, "auc")["data"][1]["y"] == runs[1].column("eval", "auc")
    assert [bar["x"] for bar in figure(text, "operations")["data"]] == [[1.0, 1.0], [0.5, 0.5]]
    names = [trace["name"] for trace in figure(text, "roofline")["data"]]
    assert names == ["a: 100 Gflop/s, 10.0 GB/s", "a", "b: 100 Gflop/s, 10.0 GB/s", "b"]
    points = figure(text, "roofline")["data"][1]
    assert points["x"] == pytest.approx([50.0, 0.25])  # 5e7 flop of 1e6 bytes
    assert points["y"] == pytest.approx([50.0, 2.0])
    assert figure(text, "calibration")["data"][0]["y"] == [0.25]
    assert figure(text, "access")["data"][0]["y"] == [25.0, 50.0]
    assert figure(text, "ranks")["data"][0]["x"] == [1.0, 2.0, 3.0]
    assert imbalance(runs[1]) == pytest.approx(1.5)
    assert imbalance(runs[0]) is None


def test_the_page_needs_no_network_and_texts_of_the_log_are_no_markup(logs):
    text = page([read_log(path) for path in logs])
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(src|href)\s*=\s*["\']', own)
    assert "<b>" not in own
    assert html.escape("--x='<b>'") in own


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_draws_the_numbers_of_the_logs(logs, tmp_path, dark):
    runs = [read_log(path) for path in logs]
    path = tmp_path / "page.html"
    path.write_text(page(runs).replace("</body>", READ))
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    switches += ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
    switches += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command = [CHROMIUM, *switches, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="values">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    values = json.loads(html.unescape(found[1]))
    assert values["theme"] == ("dark" if dark else "light")
    assert values["loss text"] == ("#e6edf3" if dark else "#24292f")
    assert values["requests"] == []
    for i, run in enumerate(runs):
        assert values["loss"][i]["y"] == run.column("step", "loss")
        assert values["rate"][i]["y"] == run.column("step", "samples_per_s")
        assert values["logloss"][i]["y"] == run.column("eval", "logloss")
    assert values["ranks"][0]["x"] == [1.0, 2.0, 3.0]
    assert all(trace["shown"] for name, t in values.items() if isinstance(t, list) for trace in t
               if isinstance(trace, dict))  # fmt: skip


def test_a_log_without_details_has_a_page_that_says_what_is_missing(tmp_path):
    events = [e for e in log_lines() if e["event"] in ("start", "step")]
    text = page([read_log(write_log(tmp_path / "a.jsonl", events))])
    assert text.count("run with --log-details") == 9
    assert "interrupted, or still running" in text


def test_steps_of_a_resumed_run_replace_those_before(tmp_path):
    events = [
        {"event": "start", "version": "1"},
        *({"event": "step", "step": i, "loss": 1.0} for i in (1, 2, 3)),
        {"event": "start", "version": "1"},
        *({"event": "step", "step": i, "loss": 2.0} for i in (3, 4)),
    ]
    run = read_log(write_log(tmp_path / "a.jsonl", events))
    assert run.column("step", "step") == [1, 2, 3, 4]
    assert run.column("step", "loss") == [1.0, 1.0, 2.0, 2.0]


def test_a_line_that_a_kill_cut_off_is_left_out_and_other_files_are_refused(tmp_path):
    path = write_log(tmp_path / "a.jsonl", log_lines())
    path.write_text(path.read_text() + '{"event": "st')
    assert read_log(path).last("end")["steps"] == 30
    for text, message in [
        ("", "no start event"),
        ('{"event": "step"}\n', "no start event"),
        ("x\n{}\n", "line 1"),
        ("[1]\n[2]\n", "no event"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_log(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "none")


@pytest.mark.parametrize(
    "event",
    [
        {"event": "step", "step": "x", "loss": 1.0},
        {"event": "operations", "lines": [{"name": "a"}]},
        {"event": "ranks", "ranks": [{}, {}]},
        {"event": "calibration", "step": 1, "bins": [{"count": 0}]},
        {"event": "norms", "step": 1},
    ],
)
def test_a_log_with_an_event_of_another_form_is_named(tmp_path, event):
    good = read_log(write_log(tmp_path / "good.jsonl", log_lines()))
    start = {"event": "start", "version": "1"}
    bad = read_log(write_log(tmp_path / "bad.jsonl", [start, event]))
    with pytest.raises(DataError, match="bad: an event of the log"):
        page([good, bad])


def test_a_figure_is_higher_by_its_legend_and_names_of_a_pair_are_apart(logs):
    assert legend_height(["a"], False) == 0
    assert legend_height(["a", "b"], False) == 20
    assert legend_height(["a" * 60] * 3, False) == 60
    assert legend_height(["a" * 60] * 3, True) == 40
    text = page([read_log(path) for path in logs])
    layout = figure(text, "operations")["layout"]
    assert layout["legend"]["yref"] == "container"
    assert layout["margin"]["b"] == 54 + 20
    assert layout["height"] == 150 + 50 * 2 + 20
    points = [(1.0, 5.0, "a forward"), (1.0, 4.0, "a backward"), (2.0, 3.0, "b forward")]
    assert _label_places(points) == ["top center", "bottom center", "top center"]


def test_long_runs_are_thinned_to_means():
    steps, values = thinned(list(range(1, 10_001)), [1.0, 3.0] * 5000)
    assert len(steps) == len(values) <= 4000
    assert steps[-1] == 10_000
    assert 1.0 < min(values) <= max(values[:-1]) < 3.0  # the last run of steps may be one step


def test_logs_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / "a/x.jsonl", tmp_path / "b/x.jsonl"]
    assert len(set(distinct_names(paths))) == 2
    assert len(set(distinct_names([paths[0]] * 2))) == 2
    assert distinct_names([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]) == ["a", "b"]


def test_the_command_replaces_only_its_own_pages(logs, tmp_path, capsys):
    out = tmp_path / "r.html"
    words = [*map(str, logs), f"--out={out}", "--title=A & B"]
    assert main(words) == main(words) == 0
    assert "<title>A &amp; B</title>" in out.read_text()
    out.write_text("<html>mine</html>")
    assert main(words) == 2
    assert out.read_text() == "<html>mine</html>"
    assert main([f"--out={tmp_path / 'n.html'}"]) == 2
    assert main([str(tmp_path / "none"), f"--out={tmp_path / 'n.html'}"]) == 2
    assert "cannot be read" in capsys.readouterr().err
