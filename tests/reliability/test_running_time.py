import os
import signal
import subprocess
import sys
import time

import pytest

from tests.parallel.launch import ROOT, environment
from tests.reliability.running_time import RunningTime

PROGRAM = """
import time
from tests.reliability.running_time import RunningTime
with RunningTime() as clock:
    print("runs", flush=True)
    while clock.seconds < 1.5:
        time.sleep(0.05)
    print(clock.standstill)
"""


def test_seconds_in_which_a_process_is_stopped_do_not_count():
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    ) as process:
        assert process.stdout.readline() == "runs\n"
        began = time.monotonic()
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3.0)
        os.kill(process.pid, signal.SIGCONT)
        standstill = float(process.stdout.read())
    assert standstill >= 2.5
    assert time.monotonic() - began >= 3.0


def test_a_process_that_takes_too_long_is_reported():
    command = [sys.executable, "-c", "import time; time.sleep(6000)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        with RunningTime() as clock, pytest.raises(subprocess.TimeoutExpired):
            clock.communicate(process, 0.1)
        process.kill()


def test_seconds_are_shorter_where_others_use_the_cpus(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (10.0 * os.cpu_count(), 0.0, 0.0))
    began = time.monotonic()
    with RunningTime() as clock:
        while not clock.seconds:
            time.sleep(0.1)
    assert clock.seconds < (time.monotonic() - began) / 5
