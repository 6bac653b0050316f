"""Whole runs of the program: losses, tests, checkpoints, logs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlrmjit import load
from dlrmjit.checkpoint import open_checkpoint
from dlrmjit.cli.commands.train import main

Run = Callable[..., tuple[int, str, str]]

# Command lines, and what the reference program prints for them.
REFERENCE = {
    "--mini-batch-size=2 --data-size=5": """
        Finished training it 1/3 of epoch 0, -1.00 ms/it, loss 0.025266
        Finished training it 2/3 of epoch 0, -1.00 ms/it, loss 0.180494
        Finished training it 3/3 of epoch 0, -1.00 ms/it, loss 0.176268""",
    "--mini-batch-size=2 --data-size=5 --nepochs=2 --learning-rate=0.1 --debug-mode": """
        Finished training it 1/3 of epoch 0, -1.00 ms/it, loss 0.082442
        Finished training it 2/3 of epoch 0, -1.00 ms/it, loss 0.013636
        Finished training it 3/3 of epoch 0, -1.00 ms/it, loss 0.001983
        Finished training it 1/3 of epoch 1, -1.00 ms/it, loss 0.068620
        Finished training it 2/3 of epoch 1, -1.00 ms/it, loss 0.011475
        Finished training it 3/3 of epoch 1, -1.00 ms/it, loss 0.000386""",
    "--mini-batch-size=4 --num-batches=5 --loss-function=bce --round-targets=True --test-freq=2 "
    "--print-freq=100 --arch-interaction-op=cat --numpy-rand-seed=7": """
        Finished training it 2/5 of epoch 0, -1.00 ms/it, loss 0.815784
        Testing at - 2/5 of epoch 0,
         accuracy 50.000 %, best 50.000 %
        Finished training it 4/5 of epoch 0, -1.00 ms/it, loss 0.830432
        Testing at - 4/5 of epoch 0,
         accuracy 50.000 %, best 50.000 %
        Finished training it 5/5 of epoch 0, -1.00 ms/it, loss 0.843318
        Testing at - 5/5 of epoch 0,
         accuracy 50.000 %, best 50.000 %""",
    "--mini-batch-size=3 --data-size=8 --loss-function=wbce --loss-weights=1.0-2.0 "
    "--arch-interaction-itself --round-targets=True --num-indices-per-lookup=3 "
    "--num-indices-per-lookup-fixed=True --rand-data-dist=gaussian --arch-embedding-size=20-30 "
    "--learning-rate=0.5 --lr-num-warmup-steps=2 --lr-decay-start-step=2 "
    "--lr-num-decay-steps=2": """
        Finished training it 1/3 of epoch 0, -1.00 ms/it, loss 0.534610
        Finished training it 2/3 of epoch 0, -1.00 ms/it, loss 1.965506
        Finished training it 3/3 of epoch 0, -1.00 ms/it, loss 0.787535""",
    "--mini-batch-size=3 --data-size=12 --arch-sparse-feature-size=4 --arch-mlp-bot=4-4 "
    "--arch-embedding-size=20-30-300 --learning-rate=0.5 --md-flag --md-threshold=3 "
    "--md-temperature=0.6 --loss-function=bce": """
        Finished training it 1/4 of epoch 0, -1.00 ms/it, loss 0.731858
        Finished training it 2/4 of epoch 0, -1.00 ms/it, loss 0.693839
        Finished training it 3/4 of epoch 0, -1.00 ms/it, loss 0.695152
        Finished training it 4/4 of epoch 0, -1.00 ms/it, loss 0.693902""",
    "--mini-batch-size=8 --data-size=32 --arch-embedding-size=301-150-900 --arch-mlp-bot=4-4 "
    "--arch-interaction-op=cat --qr-flag --qr-operation=concat --qr-threshold=100 "
    "--optimizer=rwsadagrad --loss-function=bce": """
        Finished training it 1/4 of epoch 0, -1.00 ms/it, loss 1.057346
        Finished training it 2/4 of epoch 0, -1.00 ms/it, loss 0.914808
        Finished training it 3/4 of epoch 0, -1.00 ms/it, loss 0.948863
        Finished training it 4/4 of epoch 0, -1.00 ms/it, loss 0.634517""",
    "--mini-batch-size=8 --data-size=32 --weighted-pooling=learned --optimizer=rwsadagrad "
    "--loss-function=bce --learning-rate=0.1": """
        Finished training it 1/4 of epoch 0, -1.00 ms/it, loss 0.808245
        Finished training it 2/4 of epoch 0, -1.00 ms/it, loss 1.000913
        Finished training it 3/4 of epoch 0, -1.00 ms/it, loss 0.770335
        Finished training it 4/4 of epoch 0, -1.00 ms/it, loss 0.697209""",
}
LOSS = re.compile(r"loss (\S+)")


def reported(out: str) -> list[str]:
    """Return the lines that the reference prints too."""
    wanted = ("Finished", "Testing at", " accuracy")
    return [line for line in out.splitlines() if line.startswith(wanted)]


def losses(out: str) -> list[float]:
    return [float(text) for line in reported(out) for text in LOSS.findall(line)]


@pytest.mark.parametrize("backend", ["reference", "jit"])
@pytest.mark.parametrize("line", list(REFERENCE))
def test_the_reference_programs_output(line: str, backend: str, run: Run) -> None:
    code, out, err = run(*line.split(), backend=backend)
    expected = [text.removeprefix(" " * 8) for text in REFERENCE[line].strip("\n").splitlines()]
    assert code == 0
    assert err == ""
    assert [LOSS.sub("", text) for text in reported(out)] == [LOSS.sub("", t) for t in expected]
    np.testing.assert_allclose(losses(out), losses("\n".join(expected)), rtol=1e-5, atol=1e-6)


def test_the_same_seed_gives_the_same_losses(run: Run) -> None:
    words = ["--mini-batch-size=8", "--num-batches=4"]
    first, again = run(*words)[1], run(*words)[1]
    other = run(*words, "--numpy-rand-seed=5")[1]
    assert losses(first) == losses(again)
    assert losses(first) != losses(other)


def test_without_a_test_frequency_nothing_is_tested(run: Run) -> None:
    assert "Testing" not in run("--num-batches=3")[1]
    assert "Testing" not in run("--num-batches=3", "--test-freq=0")[1]


def test_a_short_run_of_the_demo(run: Run) -> None:
    code, out, _ = run("--data-generation=synthetic", "--data-size=2048", "--mini-batch-size=128")
    assert code == 0
    assert re.search(r"Test on 256 samples: AUC 0\.\d+, log loss 0\.\d+, accuracy", out)
    assert re.search(r"best AUC possible on these data is 0\.[78]\d+", out)
    assert "Trained 16 steps, 2,048 samples" in out


def test_notes_go_to_the_error_stream(run: Run) -> None:
    code, out, err = run("--num-batches=1", "--num-workers=3")
    assert code == 0
    assert (
        err == "dlrmjit: note: --num-workers=3 has no effect here: one process prepares the data\n"
    )
    assert "num-workers" not in out


def test_a_threshold_stops_the_run(run: Run, dataset_flags: list[str]) -> None:
    words = [*dataset_flags, "--test-freq=2", "--nepochs=9", "--mlperf-acc-threshold=0.1"]
    code, out, _ = run(*words, "--mlperf-logging")
    assert code == 0
    assert "Trained 2 steps" in out
    assert "MLPerf testing accuracy threshold 0.1 reached, stop training" in out
    assert '"status": "success"' in out


def test_json_log_of_a_run(run: Run, tmp_path: Path, dataset_flags: list[str]) -> None:
    path = tmp_path / "log.jsonl"
    run(*dataset_flags, "--train-fraction=0.75", "--test-freq=4", f"--log-json={path}")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events == ["start", *["step"] * 4, "eval", *["step"] * 3, "eval", "end"]
    assert lines[0]["config"]["options"]["mini_batch_size"] == 16
    assert lines[0]["config"]["model"]["mlp_bottom"] == [13, 4]
    assert {"cpu", "isa", "cores", "threads", "python", "numba"} <= set(lines[0]["machine"])
    assert [line["step"] for line in lines if line["event"] == "step"] == list(range(1, 8))
    assert 0 <= lines[5]["auc"] <= 1
    assert lines[-1]["steps"] == 7


def test_data_set_by_days_and_by_fraction(run: Run, dataset_flags: list[str]) -> None:
    by_days = run(*dataset_flags, "--inference-only")[1]
    assert "Test on 10 samples" in by_days
    by_fraction = run(*dataset_flags, "--train-fraction=0.75", "--test-freq=50")[1]
    assert "Trained 7 steps, 105 samples" in by_fraction
    assert "Test on 35 samples" in by_fraction


def test_data_randomize_none_keeps_the_order(run: Run, dataset_flags: list[str]) -> None:
    words = [*dataset_flags, "--train-fraction=0.75"]
    assert losses(run(*words)[1]) != losses(run(*words, "--data-randomize=none")[1])


def test_num_batches_cuts_a_data_set(run: Run, dataset_flags: list[str]) -> None:
    out = run(*dataset_flags, "--num-batches=3", "--test-freq=3", "--test-mini-batch-size=2")[1]
    assert "Trained 3 steps" in out
    assert "Test on 6 samples" in out


def test_max_ind_range_bounds_the_tables(
    run: Run, dataset_flags: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    run(*dataset_flags, "--max-ind-range=4", f"--log-json={path}")
    start = json.loads(path.read_text().splitlines()[0])
    assert max(start["config"]["model"]["table_rows"]) == 4


def test_a_processed_file_is_written_and_then_read(
    run: Run, dataset_flags: list[str], tmp_path: Path
) -> None:
    processed = tmp_path / "processed.npz"
    words = [*dataset_flags, f"--processed-data-file={processed}"]
    first = run(*words)[1]
    assert processed.exists()
    assert losses(run(*words)[1]) == losses(first)
    without_text = [word for word in words if not word.startswith("--raw-data-file")]
    assert losses(run(*without_text)[1]) == losses(first)


@pytest.mark.parametrize(
    "how", ["--precision=fp32", "--precision=bf16", "--mlperf-grad-accum-iter=2"]
)
@pytest.mark.parametrize("name", ["model", "model.pt"])
def test_a_saved_run_resumes_where_it_stopped(
    name: str, how: str, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / name
    words = ["--mini-batch-size=2", "--data-size=5", "--learning-rate=0.1", how]
    whole = losses(run(*words, "--nepochs=2")[1])
    first = run(*words, f"--save-model={path}")[1]
    assert f"Saving model to {path}" in first
    second = run(*words, "--nepochs=2", f"--load-model={path}")[1]
    assert "Saved at: epoch = 0/1, batch = 3/3, ntbatch = 3" in second
    assert losses(first) + losses(second) == whole


def test_a_killed_split_bf16_run_resumes_with_the_same_bits(
    run: Run, tmp_path: Path, dataset_flags: list[str]
) -> None:
    path = tmp_path / "model"
    words = [*dataset_flags, "--precision=bf16", "--optimizer=adagrad", "--print-freq=1"]
    words += ["--test-freq=3", "--nepochs=100"]
    command = [sys.executable, "-m", "dlrmjit.train", *words, f"--save-model={path}"]
    command.append("--backend=reference")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Testing at" in line and path.is_dir():
                break
        process.kill()
    progress = open_checkpoint(path).progress
    words[words.index("--nepochs=100")] = "--nepochs=3"
    whole = losses(run(*words)[1])
    rest = losses(run(*words, f"--resume={path}")[1])
    assert rest == whole[int(progress["step"]) :]
    assert len(rest) > 3


def test_updates_from_several_batches(run: Run, dataset_flags: list[str]) -> None:
    words = [*dataset_flags, "--print-freq=1", "--mini-batch-size=8"]
    apart = losses(run(*words)[1])
    summed = losses(run(*words, "--mlperf-grad-accum-iter=2")[1])
    assert summed[0] == apart[0]
    assert summed[1] != apart[1]  # nothing has moved yet
    assert len(summed) == len(apart)
    held = [*words, "--mlperf-grad-accum-iter=2"]
    assert "multiple" in run(*held, "--test-freq=3")[2]
    code, _, error = run(*held, "--reproducible=8")
    assert code == 2
    assert "one process" in error


def test_a_resumed_run_saves_to_the_same_path(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model"
    words = ["--mini-batch-size=2", "--data-size=5"]
    run(*words, f"--save-model={path}")
    for epochs in (2, 3):
        out = run(*words, f"--nepochs={epochs}", f"--resume={path}")[1]
        assert len(losses(out)) == 3
        assert f"Saving model to {path}" in out
    assert "Trained 0 steps" in run(*words, "--nepochs=3", f"--resume={path}")[1]


def test_only_better_models_are_saved(run: Run, tmp_path: Path, dataset_flags: list[str]) -> None:
    path, log = tmp_path / "model", tmp_path / "log"
    split = "--train-fraction=0.75"
    words = [*dataset_flags, split, "--nepochs=3", "--test-freq=1", f"--log-json={log}"]
    out = run(*words, f"--save-model={path}")[1]
    tests = [json.loads(line) for line in log.read_text().splitlines() if '"eval"' in line]
    best = max(test["auc"] for test in tests)
    improvements = sum(
        test["auc"] > max((t["auc"] for t in tests[:i]), default=0) for i, test in enumerate(tests)
    )
    assert 0 < improvements < len(tests)
    assert out.count("Saving model to") == improvements
    judged = run(*dataset_flags, split, "--inference-only", f"--load-model={path}")[1]
    assert f"AUC {best:.4f}" in judged


def test_inference_only_changes_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model"
    run("--round-targets=True", "--data-size=8", f"--save-model={path}")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    words = ["--round-targets=True", "--data-size=8", "--inference-only", f"--load-model={path}"]
    code, out, _ = run(*words, f"--save-model={path}")
    assert code == 0
    assert "Testing for inference only" in out
    assert "Finished" not in out
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_debug_mode_prints_the_parameters_twice(run: Run) -> None:
    out = run("--debug-mode", "--print-precision=3")[1]
    assert "initial parameters (weights and bias):" in out
    assert "updated parameters (weights and bias):" in out
    assert "mini-batch: 0" in out


def test_a_split_bf16_model_trains_is_saved_and_tested(
    run: Run, tmp_path: Path, dataset_flags: list[str]
) -> None:
    model, log = tmp_path / "model", tmp_path / "log"
    words = [*dataset_flags, "--print-freq=1", "--test-freq=2"]
    outputs = [f"--save-model={model}", f"--log-json={log}"]
    code, out, _ = run(*words, "--precision=bf16", *outputs)
    assert code == 0
    whole = losses(run(*words)[1])
    assert losses(out) == pytest.approx(whole, abs=5e-3)
    assert losses(out) != whole
    manifest = json.loads((model / "manifest.json").read_text())
    assert manifest["state"]["emb_l.0.weight"]["split"] is True
    start = json.loads(log.read_text().splitlines()[0])
    assert start["config"]["options"]["precision"] == "bf16"
    tested = [f"--load-model={model}", "--inference-only"]
    assert run(*words, "--precision=bf16", *tested)[0] == 0
    assert run(*words, "--precision=fp32", *tested)[0] == 0


@pytest.mark.parametrize("bottom", ["--arch-mlp-bot=0", "--arch-mlp-bot="])
@pytest.mark.parametrize("kind", ["dot", "cat"])
def test_a_model_without_dense_features(kind: str, bottom: str, run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    words = [bottom, f"--arch-interaction-op={kind}", "--mini-batch-size=2", "--data-size=6"]
    assert run(*words, "--debug-mode", "--enable-profiling")[0] == 0
    code, out, _ = run(*words, f"--log-json={log}")
    assert code == 0
    assert len(losses(out)) == 3
    assert json.loads(log.read_text().splitlines()[0])["config"]["model"]["mlp_bottom"] == []
    _, again, _ = run(*words, backend="jit")
    np.testing.assert_allclose(losses(again), losses(out), atol=2e-6)


def test_a_logistic_regression_of_ids_learns(run: Run) -> None:
    code, out, _ = run(
        "--data-generation=synthetic",
        "--arch-mlp-bot=0",
        "--arch-sparse-feature-size=1",
        "--arch-interaction-op=cat",
        "--arch-mlp-top=1",
        "--num-batches=20",
        "--mlperf-logging",
        backend="jit",
    )
    assert code == 0
    assert float(re.findall(r"auc (\S+),", out)[0]) > 0.55


def test_tables_are_scaled_once(run: Run, tmp_path: Path) -> None:
    """The scale applies before training, and not again on resuming."""
    common = ["--mini-batch-size=2", "--data-size=4", "--learning-rate=0"]
    assert run(*common, f"--save-model={tmp_path / 'a'}")[0] == 0
    scaled = [*common, "--sparse-init-scale=0.5"]
    assert run(*scaled, f"--save-model={tmp_path / 'b'}")[0] == 0
    assert run(*scaled, "--nepochs=2", f"--resume={tmp_path / 'b'}")[0] == 0
    plain, halved = (load(tmp_path / name).state_dict() for name in "ab")
    for name, value in plain.items():
        factor = np.float32(0.5 if name.startswith("emb_l") else 1)
        np.testing.assert_array_equal(halved[name], value * factor)


def test_a_processed_file_of_another_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "\t".join([str(r % 2), *["1"] * 13, *(f"{(r + c) % 5:08x}" for c in range(26))])
        for r in range(70)
    ]
    text = tmp_path / "train.txt"
    text.write_text("".join(f"{line}\n" for line in lines))
    given = [
        *("--data-generation=dataset", f"--raw-data-file={text}"),
        f"--processed-data-file={tmp_path / 'p.npz'}",
        *("--arch-sparse-feature-size=2", "--arch-mlp-bot=13-2", "--arch-mlp-top=2-1"),
        *("--loss-function=bce", "--mini-batch-size=8", "--backend=reference"),
    ]
    assert main(given) == 0
    assert main(given) == 0
    capsys.readouterr()
    assert main([*given, "--max-ind-range=2"]) == 0
    assert "p.npz was made with --max-ind-range=-1" in capsys.readouterr().err
    text.write_text("".join(f"{line}\n" for line in lines[:35]))
    assert main(given) == 2
    assert "p.npz was made of another text than" in capsys.readouterr().err
