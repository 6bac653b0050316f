"""Exit codes of benchmarks, and their end when the reader closes the output."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.support import harness

ROOT = Path(__file__).parents[2]
ENDLESS = """
from bench.support.harness import run_program

def main():
    while True:
        print("a line of a report" * 100)

run_program(main)
"""


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_program_ends_with_the_code_of_its_main_function(result, code):
    with pytest.raises(SystemExit) as ended:
        harness.run_program(lambda: result)
    assert ended.value.code == code


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes of POSIX")
def test_a_closed_output_ends_a_program_without_a_traceback():
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", ENDLESS]
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 1


def row(**values):
    return {"of_ceiling": 0.9} | values


@pytest.mark.parametrize(
    ("row", "load", "words"),
    [
        (row(), 2.0, []),
        (row(of_ceiling=1.01), 2.0, []),  # within the error of the ceiling
        (row(of_ceiling=1.2), 2.0, ["above the ceiling"]),
        (row(), 7.3, ["load 7.3 on 2 CPUs"]),
        (row(of_ceiling=1.2), 7.3, ["above the ceiling", "load 7.3"]),
    ],
)
def test_implausible_rows_are_marked(row, load, words):
    found = list(harness.doubts(row, load, 2))
    assert len(found) == len(words)
    assert all(word in doubt for word, doubt in zip(words, found, strict=True))


def test_a_row_shows_its_spread_and_its_doubts(capsys):
    report = harness.Report({"threads": 1})
    samples = {"ours": harness.Samples((0.1, 0.12, 0.13))}
    made = report.add("gemm", {"N": 4}, samples, work=1.0, unit="gflops", ceiling=5.0)
    assert made["spread"] == pytest.approx(0.2)
    assert "above the ceiling: the clock or the ceiling changed" in made["doubts"]
    printed = capsys.readouterr().out
    assert "+20 %" in printed
    assert "(above the ceiling" in printed


def test_a_peer_that_is_not_installed_is_named_once(capsys):
    harness.has_peer.cache_clear()
    assert not any(harness.has_peer("fast", "json", "no_such_package") for _ in range(2))
    assert harness.has_peer("ours", "json")
    assert capsys.readouterr().out == "without fast: no_such_package cannot be imported\n"


def test_every_benchmark_ends_by_run_program():
    """So a closed output is no traceback, whichever benchmark it is."""
    for path in (ROOT / "bench").rglob("*.py"):
        end = path.read_text().partition('if __name__ == "__main__":')[2]
        is_tool = path.parent.name == "support" or path.stem == "server"  # started by others
        assert not end or is_tool or "run_program(main)" in end, path


def test_torch_is_a_peer_as_it_is_and_compiled_where_there_is_a_compiler(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(compile=lambda function: None))
    for has_compiler, expected in (
        (False, {"torch x": abs}),
        (True, {"torch x": abs, "torch.compile x": None}),
    ):
        monkeypatch.setattr(harness, "has_compiler", lambda name, found=has_compiler: found)
        assert harness.torch_forms("x", abs) == expected
