"""The command line: as a user has it, in a process of its own, or called within the tests' own, which takes no time."""

import io
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from attnbench import cli
from attnbench.execute import local
from helpers.servers import KeptServer

# The smallest sweep that goes through plan, processes, store and table.
SMALL = ("--seq", "64", "--heads", "2", "--head-dim", "16", "--profile", "quick", "--threads", "1")

MAIN = "from attnbench.cli import main; main()"

Done = subprocess.CompletedProcess[str]


def attnbench(*words: str, cwd: Path, timeout: float = 120, **settings: str) -> Done:
    """Run a command to its end in a process of its own, in a folder, 80 columns wide."""
    return subprocess.run(
        command(*words),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**settings),
        check=False,
    )


def started(*words: str, cwd: Path, code: str = MAIN) -> subprocess.Popen[str]:
    """Start a command in a process and a session of its own, in a folder; what it says is read from its errors."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def call(*words: str, cwd: Path, site: str = "") -> Done:
    """Call a command within this process, in a folder, 80 columns wide; return what its process would have given.

    What is installed in the folder `site` is found besides. Calls fork their jobs from one server, so that torch is
    imported once for all of them (once more for a site). A run that trains wants `--out` with a whole path: that server
    writes the checkpoints, and its working folder is another.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ExitStack() as stack:
            stack.enter_context(chdir(cwd))
            stack.enter_context(mock.patch.dict(os.environ, COLUMNS="80", NO_COLOR="1"))
            stack.enter_context(mock.patch.object(sys, "argv", ["attnbench", *words]))
            if site:
                paths = [site, *filter(None, [os.environ.get("PYTHONPATH")])]
                stack.enter_context(mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(paths)))
                stack.enter_context(mock.patch.object(sys, "path", [site, *sys.path]))
            stack.enter_context(mock.patch.object(local, "ForkServer", KeptServer))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            cli.main()
    except SystemExit as end:
        return subprocess.CompletedProcess(words, int(end.code or 0), _text(out), _text(err))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _text(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


def command(*words: str) -> list[str]:
    """Return the words that start the command."""
    return [sys.executable, "-c", MAIN, *words]


def environment(**settings: str) -> dict[str, str]:
    """Return the variables that a test's process is started with."""
    return {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **settings}
