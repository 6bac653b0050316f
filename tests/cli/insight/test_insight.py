"""What a run writes about itself next to its results."""

import json

import numpy as np
import pytest

from tests.parallel.launch import needs_mpi, run_ranks
from tests.perf.traces import self_times

MODEL = ["--arch-embedding-size=40-30", "--arch-sparse-feature-size=4", "--arch-mlp-bot=5-4"]
MODEL += ["--arch-mlp-top=8-1", "--loss-function=bce", "--round-targets=True"]
RUN = [
    *MODEL,
    "--mini-batch-size=16",
    "--num-batches=24",
    "--test-freq=8",
    "--num-indices-per-lookup=3",
]


def events(path, kind):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_details_are_in_the_log_and_change_no_loss(run, tmp_path):
    plain, detailed = tmp_path / "plain.jsonl", tmp_path / "detailed.jsonl"
    assert run(*RUN, f"--log-json={plain}")[0] == 0
    assert run(*RUN, f"--log-json={detailed}", "--log-details")[0] == 0
    for kind, name in (("step", "loss"), ("eval", "auc")):
        found = ([e[name] for e in events(path, kind)] for path in (plain, detailed))
        assert next(found) == next(found)
    (operations,), (access,) = events(detailed, "operations"), events(detailed, "access")
    names = [line["name"] for line in operations["lines"]]
    assert {"bottom forward", "embedding backward", "step"} <= set(names)
    assert operations["steps"] == 23  # all but the first
    assert [table["rows"] for table in access["tables"]] == [40, 30]
    tests = events(detailed, "eval")
    for calibration, test in zip(events(detailed, "calibration"), tests, strict=True):
        assert sum(one["count"] for one in calibration["bins"]) == test["samples"]
    assert len(events(detailed, "norms")) == 1 + len(tests)
    assert [e["step"] for e in events(detailed, "gradient")] == [1, 11, 21]
    assert json.loads(detailed.read_text().splitlines()[-1])["event"] == "end"
    assert not events(plain, "norms")
    command = events(plain, "start")[0]["config"]["command"]
    assert command.startswith("python -m dlrmjit.train --arch")


def test_the_norm_of_the_gradient_is_that_of_the_change_of_the_parameters(run, tmp_path):
    """One step of plain SGD with rate 1 moves every parameter by its gradient."""
    log = tmp_path / "log.jsonl"
    before, after = tmp_path / "before", tmp_path / "after"
    one = [*MODEL, "--mini-batch-size=16", "--num-batches=1", "--num-indices-per-lookup=3"]
    for path, rate in ((before, "0.0"), (after, "1.0")):
        words = [f"--learning-rate={rate}", f"--save-model={path}", f"--log-json={log}"]
        assert run(*one, *words, "--log-details")[0] == 0
    from dlrmjit.training.persistence import load

    first, last = (load(path, backend="reference").state_dict() for path in (before, after))
    squares = {"mlp": 0.0, "tables": 0.0}
    for name in first:
        part = "tables" if name.startswith("emb") else "mlp"
        squares[part] += float(np.sum((first[name].astype(float) - last[name]) ** 2))
    (gradient,) = events(log, "gradient")
    for part, total in squares.items():
        assert gradient[part] == pytest.approx(total**0.5, rel=1e-4)


def test_metrics_are_flat_numbers(run, tmp_path):
    path = tmp_path / "metrics.json"
    assert run(*RUN, f"--metrics={path}")[0] == 0
    numbers = json.loads(path.read_text())
    assert all(isinstance(value, (int, float)) for value in numbers.values())
    assert numbers["steps"] == 24
    assert 0 <= numbers["test_auc"] <= 1
    assert run(*RUN, f"--metrics={path}")[0] == 0  # its own file is replaced
    path.write_text('{"mine": 1}')
    code, _, error = run(*RUN, f"--metrics={path}")
    assert (code, json.loads(path.read_text())) == (2, {"mine": 1})
    assert "--metrics" in error


def test_a_trace_has_the_chosen_steps(run, tmp_path):
    path, log = tmp_path / "trace.json", tmp_path / "log.jsonl"
    words = [f"--trace={path}", "--trace-steps=1-100", f"--log-json={log}", "--log-details"]
    assert run(*RUN, *words)[0] == 0
    trace = json.loads(path.read_text())["traceEvents"]
    assert sum(event["name"] == "step" for event in trace) == 23
    assert any(event["name"] == "next batch" for event in trace)
    found = self_times(trace)
    (operations,) = events(log, "operations")
    lines = {line["name"]: line["ms"] * operations["steps"] for line in operations["lines"]}
    assert sum(found.values()) == pytest.approx(lines["step"], rel=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--log-details"], "give --log-json"),
        (["--trace=no/such/folder/t.json"], "--trace"),
        (["--trace=t", "--trace-steps=3"], "two numbers"),
        (["--trace=t", "--trace-steps=3-0"], "two numbers"),
        (["--trace=t", "--reproducible=2"], "--reproducible"),
        (["--noise-scale"], "give --reproducible"),
        (["--noise-scale", "--reproducible=1"], "at least 2"),
        (["--metrics=no/such/folder/m.json"], "--metrics"),
        (["--prometheus=no/such/folder/m.prom"], "--prometheus"),
        (["--prometheus=m.txt"], "end in .prom"),
        (["--tensorboard=/dev/null"], "no folder"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_computed(run, words, message):
    code, output, error = run(*RUN, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert "Finished" not in output


def test_tensorboard_gets_scalars_that_its_own_format_reads_back(run, tmp_path):
    pytest.importorskip("tensorboardX", reason="needs tensorboardX")
    folder, log = tmp_path / "board", tmp_path / "log.jsonl"
    assert run(*RUN, f"--tensorboard={folder}", f"--log-json={log}")[0] == 0
    found = scalars(folder)
    assert found["test/auc"] == pytest.approx({e["step"]: e["auc"] for e in events(log, "eval")})
    assert {"train/loss", "gradient_norm/mlp", "row_norm/table_0"} <= set(found)
    assert any(name.startswith("calibration/") for name in found)
    assert run(*RUN, f"--tensorboard={folder}")[0] == 0  # a second run beside the first
    (folder / "mine.txt").write_text("mine")
    assert run(*RUN, f"--tensorboard={folder}")[0] == 2


def scalars(folder):
    """Return the value of every scalar by name and step, from the records of the event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


@needs_mpi
def test_ranks_are_in_one_log_and_one_trace(tmp_path):
    log, trace = tmp_path / "log.jsonl", tmp_path / "trace.json"
    words = [f"--log-json={log}", "--log-details", f"--trace={trace}", "--trace-steps=1-100"]
    run_ranks(2, "-m", "dlrmjit.train", *RUN, *words, "--backend=reference")
    (ranks,), (access,) = events(log, "ranks"), events(log, "access")
    assert [rank["rank"] for rank in ranks["ranks"]] == [0, 1]
    assert all("alltoall" in rank["waiting_ms"] for rank in ranks["ranks"])
    assert len(access["tables"]) == 2
    assert events(log, "start")[0]["config"]["command"].startswith("mpiexec -n 2 python")
    found = json.loads(trace.read_text())["traceEvents"]
    (operations,) = events(log, "operations")
    step = next(line for line in operations["lines"] if line["name"] == "step")
    for rank in (0, 1):
        own = [event for event in found if event["pid"] == rank]
        assert (
            sum(event["ph"] == "b" for event in own) == sum(event["ph"] == "e" for event in own) > 0
        )
        assert any(event["name"].startswith("waiting: ") for event in own)
    spans = [e["dur"] / 1e3 for e in found if e["pid"] == 0 and e["name"] == "step"]
    assert sum(spans) == pytest.approx(step["ms"] * operations["steps"], rel=0.02)
    calibration = events(log, "calibration")[-1]
    assert sum(one["count"] for one in calibration["bins"]) == events(log, "eval")[-1]["samples"]


@needs_mpi
def test_a_trace_opens_in_the_trace_processor_of_perfetto(run, tmp_path):
    processor = pytest.importorskip("perfetto.trace_processor", reason="needs perfetto")
    path = tmp_path / "trace.json"
    assert run(*RUN, f"--trace={path}", "--trace-steps=1-100")[0] == 0
    try:
        opened = processor.TraceProcessor(trace=str(path))
    except Exception as error:  # its program is downloaded at first use
        pytest.skip(f"the trace processor does not start here: {error}")
    try:
        rows = opened.query("select name, count(*) as n, sum(dur) as ns from slice group by name")
        found = {row.name: (row.n, row.ns) for row in rows}
    finally:
        opened.close()
    document = json.loads(path.read_text())["traceEvents"]
    assert found["step"][0] == 23
    written = sum(event["dur"] for event in document if event["name"] == "step")
    assert found["step"][1] / 1e3 == pytest.approx(written, rel=1e-3)


def test_the_noise_scale_of_the_gradient_is_logged_and_changes_no_loss(run, tmp_path):
    plain, noisy = tmp_path / "plain.jsonl", tmp_path / "noisy.jsonl"
    assert run(*RUN, "--reproducible=4", f"--log-json={plain}")[0] == 0
    words = ["--reproducible=4", "--noise-scale", f"--log-json={noisy}"]
    code, _, error = run(*RUN, *words)
    assert code == 0
    assert "noise scale of the gradient" in error
    losses = [[e["loss"] for e in events(path, "step")] for path in (plain, noisy)]
    assert losses[0] == losses[1]
    found = events(noisy, "noise")
    assert [e["step"] for e in found] == [8, 16, 24, 24]
    assert [e["batches"] for e in found] == [8, 16, 24, 24]
    assert all(e["scale"] is None or e["scale"] >= 0 for e in found)


@needs_mpi
def test_the_noise_scale_is_that_of_all_ranks(tmp_path):
    words = ["--reproducible=6", "--noise-scale", "--backend=reference"]
    found = []
    for ranks in (1, 2, 3):
        log = tmp_path / f"{ranks}.jsonl"
        run_ranks(ranks, "-m", "dlrmjit.train", *RUN, *words, f"--log-json={log}")
        found.append([e["scale"] for e in events(log, "noise")])
    assert found[0] == found[1] == found[2]
    assert found[0]
