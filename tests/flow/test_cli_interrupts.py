"""Ctrl-C, once and twice."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.command import SMALL, environment
from helpers.processes import running

SERVER = "attnbench.execute.server"
HANGS = """
import time

class Hangs:
    def __init__(self, case):
        pass

    def __call__(self, q, k, v):
        print("hanging", flush=True)
        time.sleep(1000)
"""
# A command whose clearing up takes for ever, as where a driver does not let a process go.
STUCK = """
import sys, time
from attnbench.execute.local import LocalExecutor
close = LocalExecutor.close
LocalExecutor.close = lambda self: time.sleep(1000) if sys.exc_info()[0] else close(self)
from attnbench.cli import main
main()
"""
USUAL = "from attnbench.cli import main; main()"


def start(folder: Path, code: str) -> subprocess.Popen[str]:
    """Start a run that hangs in its only case, and wait until it does."""
    (folder / "mine.py").write_text(HANGS)
    words = ("run", "--variants", "./mine.py:Hangs", "--metrics", "memory", *SMALL)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("run ")
    deadline = time.monotonic() + 20
    while len(running("attnbench.execute", folder=folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def assert_none_left(folder: Path) -> None:
    deadline = time.monotonic() + 5
    while running(SERVER, folder=folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(SERVER, folder=folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_a_command_that_hangs_while_it_cleans_up(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(tmp_path, STUCK)
    process.send_signal(number)
    time.sleep(0.8)
    assert process.poll() is None
    asked = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=10) == code
    assert time.monotonic() - asked < 1
    assert process.stderr is not None
    process.stderr.close()
    assert_none_left(tmp_path)


def test_two_interrupts_at_once_count_as_one(tmp_path: Path) -> None:
    process = start(tmp_path, USUAL)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=10)[1]
    assert process.returncode == 130
    assert "attnbench run --resume" in said
    assert said.endswith("attnbench: interrupted\n")
    assert "Traceback" not in said
    assert_none_left(tmp_path)
