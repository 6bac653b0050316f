"""The file for Prometheus' textfile collector."""

import math

import pytest

from dlrmjit.cli.insight import prometheus_file
from tests.cli.insight.test_insight import RUN


def samples(text):
    """Return the values of a file; the parser of Prometheus reads it, if it is installed."""
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_the_file_of_a_run_is_read_by_prometheus(run, tmp_path):
    path = tmp_path / "run.prom"
    assert run(*RUN, f"--prometheus={path}")[0] == 0
    found = samples(path.read_text())
    assert found["dlrmjit_train_steps_total"] == 24
    assert found["dlrmjit_train_samples_total"] == 24 * 16
    assert 0 <= found["dlrmjit_test_auc"] <= found["dlrmjit_test_best_auc"] <= 1
    assert found["dlrmjit_resident_memory_bytes"] > 1e6
    assert found["dlrmjit_train_finished"] == 1
    assert run(*RUN, f"--prometheus={path}")[0] == 0  # its own file is replaced
    assert [p.name for p in tmp_path.iterdir()] == ["run.prom"]


def test_a_file_of_others_is_refused(run, tmp_path):
    path = tmp_path / "run.prom"
    path.write_text("other_metric 1\n")
    code, _, error = run(*RUN, f"--prometheus={path}")
    assert (code, path.read_text()) == (2, "other_metric 1\n")
    assert "--prometheus" in error


def test_values_that_are_not_finite_are_left_out():
    assert samples(prometheus_file.text({"train_loss": math.nan, "test_auc": 0.75})) == {
        "dlrmjit_train_steps_total": 0,
        "dlrmjit_test_auc": 0.75,
    }


def test_the_first_file_is_written_before_the_first_step(tmp_path):
    writer = prometheus_file.PrometheusFile(str(tmp_path / "run.prom"))
    writer.on_start(None, 1, None)
    found = samples((tmp_path / "run.prom").read_text())
    assert (found["dlrmjit_train_steps_total"], found["dlrmjit_train_finished"]) == (0, 0)


def test_a_folder_that_vanishes_is_noted_once_and_ends_nothing(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    writer = prometheus_file.PrometheusFile(str(tmp_path / "there" / "run.prom"))
    (tmp_path / "there").rmdir()
    writer.on_start(None, 1, None)
    writer.on_end(None)
    assert capsys.readouterr().err.count("--prometheus") == 1
