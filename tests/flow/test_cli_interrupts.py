"""Ctrl-C, once and twice."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.command import SMALL, environment, started
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
    process = started(*words, cwd=folder, code=code)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("run ")
    deadline = time.monotonic() + 20
    while len(running(SERVER, folder=folder)) < 3 and time.monotonic() < deadline:
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


def test_one_interrupt_ends_a_command_that_hangs_while_it_cleans_up(tmp_path: Path) -> None:
    code = "from attnbench.cli import interrupts; interrupts._PROMPT_WITHIN_S = 0.3\n" + STUCK
    process = start(tmp_path, code)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=10)[1]
    assert time.monotonic() - asked < 2
    assert process.returncode == 130
    assert said.endswith("attnbench: interrupted\n")
    assert_none_left(tmp_path)


# Sends itself Ctrl-C as it imports a module.
INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
from attnbench.cli import main
main()
"""


@pytest.mark.parametrize("module", ["attnbench.cli.streams", "attnbench.cli.app", "typer", "attnbench.planning.plan"])
def test_an_interrupt_while_the_command_is_imported_is_one_sentence(tmp_path: Path, module: str) -> None:
    code = INTERRUPTED.format(module=module)
    words = [sys.executable, "-c", code, "run", "--variants", "vanilla", *SMALL]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (130, "attnbench: interrupted\n")


def test_an_interrupt_while_torch_is_imported_is_heard_at_once(tmp_path: Path) -> None:
    words = [sys.executable, "-c", USUAL, "map", "vanilla"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment())
    while len(running(SERVER, folder=tmp_path)) < 2:
        time.sleep(0.01)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == "attnbench: interrupted\n"
    assert time.monotonic() - asked < 1
    assert process.returncode == 130
    assert_none_left(tmp_path)


# Draws a map with a renderer that holds the interpreter, so that no handler of Python's can run.
DEAF = """
import ctypes, sys
from attnbench.answers.map import drawing
drawing.encoded = lambda *given, **options: print("drawing", flush=True) or ctypes.PyDLL(None).sleep(60)
from attnbench.cli import main
main()
"""


def test_an_interrupt_ends_a_renderer_that_does_not_listen(tmp_path: Path) -> None:
    words = [sys.executable, "-c", DEAF, "map", "linear", "--seq", "16"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "drawing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=2) == -signal.SIGINT  # which a shell gives as 130
    assert_none_left(tmp_path)
