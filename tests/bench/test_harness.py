"""Exit codes of benchmarks, and their end when the reader closes the output."""

import subprocess
import sys
from pathlib import Path

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
