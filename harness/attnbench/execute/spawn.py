"""Where fork is unsafe (macOS, Windows): a new interpreter for each question, with the fork server's interface."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from attnbench.execute.children import Child, Ended, Heard, given_up
from attnbench.execute.messages import Question

_LOOK_EVERY_S = 0.01
_CHUNK = 1 << 16


class _Spawned(Child):
    """A child that is heard through two files, for Windows waits on no pipes."""

    def __init__(self, name: int, question: Question, *, timeout_s: float, environ: Mapping[str, str]) -> None:
        super().__init__(name, timeout_s=timeout_s)
        self.folder = TemporaryDirectory(prefix="attnbench-", ignore_cleanup_errors=True)
        asked, answers, output = (Path(self.folder.name) / file for file in ("question", "answers", "output"))
        asked.write_bytes(msgspec.json.encode(question))
        answers.touch()
        self.said, self.printed = answers.open("rb"), output
        with output.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "attnbench.execute.spawned", str(asked), str(answers)],
                stdin=subprocess.PIPE,  # its end tells the child that we are gone
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environ},
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it, and where there are process groups whatever it started in its own."""
        if sys.platform == "win32":
            self.process.kill()
            return
        with suppress(ProcessLookupError, PermissionError):  # the latter is macOS's for a zombie
            os.killpg(self.process.pid, signal.SIGKILL)

    def look(self) -> list[Heard | Ended]:
        """Tell what happened since the last look."""
        code = self.process.poll()
        found: list[Heard | Ended] = [*self.hear(self.said.read())]
        if code is not None:
            self.forget()
            found.append(self.ended(code))
        return found

    def forget(self) -> None:
        """Let go of its files, once what it printed is read."""
        self.kill()
        self.said.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        with self.printed.open("rb") as stream:
            while data := stream.read(_CHUNK):
                self.log.add(data)
        self.folder.cleanup()


class Spawner:
    """Starts a process for each question; nothing is kept between them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ, self._count = environ, 0
        self._children: dict[int, _Spawned] = {}

    def ask(self, question: Question, *, timeout_s: float) -> int:
        """Start a child on a question; the number given back names it in what `events` yields."""
        self._count += 1
        self._children[self._count] = _Spawned(self._count, question, timeout_s=timeout_s, environ=self._environ)
        return self._count

    def events(self) -> list[Heard | Ended]:
        """Wait until something happened to at least one child, and tell it."""
        found: list[Heard | Ended] = []
        while self._children and not found:
            for child in list(self._children.values()):
                found += child.look()
            for event in found:
                if isinstance(event, Ended):
                    del self._children[event.id]
            for late in given_up(self._children.values()):
                self._children[late.name].kill()
            if not found:
                time.sleep(_LOOK_EVERY_S)
        return found

    def close(self) -> None:
        """End every child."""
        for child in self._children.values():
            child.kill()
            child.process.wait()
            child.forget()
        self._children.clear()
