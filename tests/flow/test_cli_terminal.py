"""A run as a person sees it: on a terminal of 80 columns and 24 lines."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from helpers.command import SMALL, command, environment

PATIENT = """
import pathlib, time, torch

class Slow:
    def __init__(self, case):
        pass

    def __call__(self, q, k, v):
        while (pathlib.Path(__file__).parent / "hang").exists():
            time.sleep(0.1)
        return v
"""


class Terminal:
    """A command on a terminal of its own, and the screen that what it writes amounts to."""

    def __init__(self, *words: str, cwd: Path) -> None:
        self.main, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        settings = {name: each for name, each in environment(TERM="xterm").items() if name != "COLUMNS"}
        self.process = subprocess.Popen(
            command(*words), cwd=cwd, stdin=end, stdout=end, stderr=end, env=settings, start_new_session=True
        )
        os.close(end)
        self.written = ""

    def read(self, *, until: str = "", seconds: float = 60) -> str:
        """Read until the screen shows some text, or to the command's end; return the screen."""
        deadline = time.monotonic() + seconds
        while not until or until not in screen(self.written):
            assert time.monotonic() < deadline, screen(self.written)
            try:
                piece = os.read(self.main, 65536)
            except OSError:  # how Linux tells that the other end has closed
                break
            self.written += piece.decode()
        return screen(self.written)

    def end(self) -> int:
        """Wait for the command's exit code."""
        code = self.process.wait(timeout=20)
        os.close(self.main)
        return code


def screen(written: str) -> str:
    """Play what a command writes: text, line ends, and the few codes that a live display uses."""
    lines, row, column = [""], 0, 0
    for code, sign in re.findall(r"\x1b\[([0-9;?]*[A-Za-z])|(\r|\n|[^\x1b])", written):
        if code == "2K":
            lines[row] = ""
        elif code.endswith("A"):
            row -= int(code[:-1] or 1)
        elif sign == "\r":
            column = 0
        elif sign == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif sign:
            lines[row] = f"{lines[row][:column]:<{column}}{sign}{lines[row][column + 1 :]}"
            column += 1
    return "\n".join(line.rstrip() for line in lines)


def test_the_display_shows_what_runs_and_how_much_is_done_and_leaves_the_table_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PATIENT)
    (tmp_path / "hang").touch()
    terminal = Terminal("run", "--variants", "flash,./mine.py:Slow", *SMALL, "--metrics", "memory", cwd=tmp_path)
    shown = terminal.read(until="1/2 jobs")
    assert re.search(r"^flash +\d", shown, re.MULTILINE), shown
    shown = terminal.read(until="Slow seq 64")
    assert "  memory forward Slow seq 64 heads 2" in shown
    assert re.search(r"^  \[=+\.+\] 1/2 jobs, \d+ m?s elapsed, under 10 s left$", shown, re.MULTILINE), shown
    (tmp_path / "hang").unlink()
    kept = terminal.read()
    assert terminal.end() == 0
    assert re.match(r"run \S+: 2 jobs on .+\nPeak memory above the inputs, forward", kept), kept
    assert "jobs," not in kept
    assert re.search(r"^Slow +\d", kept, re.MULTILINE), kept
    assert re.search(r"^Results: results/\S+  \(again: attnbench show \S+\)$", kept, re.MULTILINE), kept


def test_after_ctrl_c_the_screen_says_how_to_resume_and_the_cursor_is_back(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PATIENT)
    (tmp_path / "hang").touch()
    terminal = Terminal("run", "--variants", "./mine.py:Slow", *SMALL, "--metrics", "memory", cwd=tmp_path)
    terminal.read(until="Slow seq 64")
    terminal.process.send_signal(signal.SIGINT)
    kept = terminal.read()
    assert terminal.end() == 130
    (run,) = (tmp_path / "results").iterdir()
    assert f"go on with: attnbench run --resume {run.name}" in kept.replace("\n", "")
    assert "jobs," not in kept
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")
