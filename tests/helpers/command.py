"""The command line as a user has it: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

# The smallest sweep that goes through plan, processes, store and table.
SMALL = ("--seq", "64", "--heads", "2", "--head-dim", "16", "--profile", "quick", "--threads", "1")


def attnbench(*words: str, cwd: Path, timeout: float = 120, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a folder, 80 columns wide."""
    return subprocess.run(
        command(*words),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**settings),
        check=False,
    )


def command(*words: str) -> list[str]:
    """Give the words that start the command."""
    return [sys.executable, "-c", "from attnbench.cli import main; main()", *words]


def environment(**settings: str) -> dict[str, str]:
    """Give the variables that a test's process is started with."""
    return {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **settings}
