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

from attnbench.execute.children import AwakeClock, Child, Exit, Message, to_kill
from attnbench.execute.messages import Question

_POLL_EVERY_S = 0.01
_CHUNK = 1 << 16


class _Spawned(Child):
    """A child whose messages and output are files: on Windows, pipes cannot be waited for."""

    def __init__(
        self, id_: int, question: Question, *, timeout_s: float, clock: AwakeClock, environ: Mapping[str, str]
    ) -> None:
        super().__init__(id_, timeout_s=timeout_s, clock=clock)
        self.folder = TemporaryDirectory(prefix="attnbench-", ignore_cleanup_errors=True)
        asked, messages, self.output = (Path(self.folder.name) / name for name in ("question", "messages", "output"))
        asked.write_bytes(msgspec.json.encode(question))
        messages.touch()
        self.messages = messages.open("rb")
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "attnbench.execute.worker", str(asked), str(messages)],
                stdin=subprocess.PIPE,  # its end tells the child that the parent is gone
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environ},
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill the process, and its process group where there are groups."""
        if sys.platform == "win32":
            self.process.kill()
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS raises PermissionError for a zombie
            os.killpg(self.process.pid, signal.SIGKILL)

    def poll(self) -> list[Message]:
        """Return the messages since the last poll."""
        code = self.process.poll()
        messages = self.receive(self.messages.read(_CHUNK))
        if code is not None:
            while data := self.messages.read(_CHUNK):
                messages += self.receive(data)
            self.forget()
            messages.append(self.exit(code))
        return messages

    def forget(self) -> None:
        """Read the rest of its output, and remove its files."""
        self.kill()
        self.messages.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        with self.output.open("rb") as stream:
            while data := stream.read(_CHUNK):
                self.log.add(data)
        self.folder.cleanup()


class Spawner:
    """Starts a process for each question; nothing is shared between them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ, self._count, self._clock = environ, 0, AwakeClock()
        self._children: dict[int, _Spawned] = {}

    def ask(self, question: Question, *, timeout_s: float) -> int:
        """Start a child on a question and return its id."""
        self._count += 1
        self._children[self._count] = _Spawned(
            self._count, question, timeout_s=timeout_s, clock=self._clock, environ=self._environ
        )
        return self._count

    def has_begun(self, id_: int) -> bool:
        """Return true: a child begins as it is asked."""
        return id_ in self._children

    def receive(self) -> list[Message]:
        """Wait for messages from at least one child, and return them."""
        messages: list[Message] = []
        while self._children and not messages:
            messages = [message for child in self._children.values() for message in child.poll()]
            for id_, message in messages:
                if isinstance(message, Exit):
                    del self._children[id_]
            for child in to_kill(self._children.values(), self._clock.now()):
                self._children[child.id].kill()
            if not messages:
                time.sleep(_POLL_EVERY_S)
        return messages

    def close(self) -> None:
        """Terminate every child."""
        for child in self._children.values():
            child.kill()
            child.process.wait()
            child.forget()
        self._children.clear()
