"""The parent's side: ask a question of a fresh child, hear from it, and end it when it is silent too long."""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Self

import msgspec
from msgspec import Struct

from attnbench.execute.messages import Answered, Perform, Question, Told

_LOG_HEAD, _LOG_TAIL = 8 << 10, 24 << 10
_CHUNK = 1 << 16
_START_TIMEOUT_S = 120.0


class Heard(Struct, frozen=True, kw_only=True):
    """A child that is at work said something."""

    id: int
    text: str


class Ended(Struct, frozen=True, kw_only=True):
    """A child is gone. Without an `answer` it crashed, or was `silent` for too long and was killed."""

    id: int
    answer: Answered | None
    exit_code: int
    silent: bool = False
    log: str = ""


class ServerLost(Exception):  # noqa: N818 - it names what happened
    """The fork server itself is gone (killed by the kernel or by hand)."""


class Log:
    """The beginning and the end of what a child printed, however much it was."""

    def __init__(self) -> None:
        self.head, self.tail, self.total = b"", b"", 0

    def add(self, data: bytes) -> None:
        """Take in what was printed next."""
        self.total += len(data)
        room = _LOG_HEAD - len(self.head)
        self.head, rest = self.head + data[:room], data[room:]
        self.tail = (self.tail + rest)[-_LOG_TAIL:]

    def text(self) -> str:
        """Give it as text; bytes that are none are written as escapes."""
        left_out = self.total - len(self.head) - len(self.tail)
        middle = f"\n... {left_out} bytes left out ...\n".encode() if left_out else b""
        return (self.head + middle + self.tail).decode("utf-8", errors="backslashreplace")


class Child:
    """What is known of a child at work: what it said and printed, and when it is given up."""

    def __init__(self, name: int, *, timeout_s: float) -> None:
        self.name, self.timeout_s = name, timeout_s
        self.log, self.pending = Log(), b""
        self.answer: Answered | None = None
        self.silent = False
        self.deadline = time.monotonic() + timeout_s

    def hear(self, data: bytes) -> list[Heard]:
        """Take in what came from the child, and give its signs of life; an answer is kept."""
        *whole, self.pending = (self.pending + data).split(b"\n")
        heard = []
        for line in whole:
            try:
                said = msgspec.json.decode(line, type=Told | Answered)
            except msgspec.DecodeError:  # someone else wrote on the descriptor: without an answer it is a crash
                continue
            if isinstance(said, Told):
                heard.append(Heard(id=self.name, text=said.text))
                self.deadline = time.monotonic() + self.timeout_s
            else:
                self.answer = said
        return heard

    def ended(self, exit_code: int) -> Ended:
        """Say how it ended."""
        return Ended(id=self.name, answer=self.answer, exit_code=exit_code, silent=self.silent, log=self.log.text())


def given_up(children: Iterable[Child]) -> list[Child]:
    """Mark the children that have been silent for too long, and give those that were not marked before."""
    now = time.monotonic()
    late = [child for child in children if not child.silent and child.deadline <= now]
    for child in late:
        child.silent = True
    return late


class _Forked(Child):
    """A child that is heard through two pipes: its answers, and what it prints."""

    def __init__(self, name: int, *, result: int, output: int, timeout_s: float) -> None:
        super().__init__(name, timeout_s=timeout_s)
        self.result, self.output = result, output

    def read(self, descriptor: int) -> list[Heard] | None:
        """Take in what a pipe holds; None at its end."""
        data = os.read(descriptor, _CHUNK)
        if not data:
            return None
        if descriptor == self.output:
            self.log.add(data)
            return []
        return self.hear(data)


class ForkServer:
    """A running fork server and the children it was asked for. Not thread-safe; use it as a context manager."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "attnbench.execute.server", str(theirs.fileno())]
        # numpy comes with torch and would start OpenBLAS's threads, which a fork does not survive.
        settings = {**os.environ, **environ, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=settings,
            start_new_session=True,  # the terminal's Ctrl-C is for us
        )
        theirs.close()
        self._socket, self._children, self._count = ours, dict[int, _Forked](), 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ)
        ours.settimeout(_START_TIMEOUT_S)
        self._receive()
        ours.settimeout(None)

    def ask(self, question: Question, *, timeout_s: float) -> int:
        """Start a child on a question; the number given back names it in what `events` yields."""
        self._count += 1
        text = os.memfd_create("question")
        os.write(text, msgspec.json.encode(question))
        os.lseek(text, 0, os.SEEK_SET)
        (result, answers), (output, prints) = os.pipe(), os.pipe()
        child = _Forked(self._count, result=result, output=output, timeout_s=timeout_s)
        for descriptor in (result, output):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, child)
        try:
            request = {
                "id": self._count,
                "gradients": isinstance(question, Perform) and question.job.case.differentiates,
            }
            socket.send_fds(self._socket, [json.dumps(request).encode()], [text, answers, prints])
        except OSError as error:
            raise ServerLost(str(error)) from error
        finally:
            for descriptor in (text, answers, prints):
                os.close(descriptor)
        self._children[self._count] = child
        return self._count

    def events(self) -> list[Heard | Ended]:
        """Wait until something happened to at least one child, and tell it. Raises ServerLost."""
        found: list[Heard | Ended] = []
        while self._children and not found:
            ready = [key for key, _ in self._selector.select(self._patience_s())]
            # Pipes first: an exit closes its child's, and they may be among those that are ready.
            for key in sorted(ready, key=lambda key: key.data is None):
                if key.data is None:
                    found.append(self._ended(self._receive()))
                elif (heard := key.data.read(key.fd)) is None:
                    self._selector.unregister(key.fd)
                else:
                    found += heard
            for child in given_up(self._children.values()):
                self._kill(child)
        return found

    def close(self) -> None:
        """End the server and every process that came from it."""
        self._socket.close()
        self._process.wait()
        for child in self._children.values():
            self._forget(child)
        self._children.clear()
        self._selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> dict[str, int]:
        try:
            message = self._socket.recv(_CHUNK)
        except (OSError, TimeoutError) as error:
            raise ServerLost(str(error)) from error
        if not message:
            raise ServerLost(f"the fork server ended with exit code {self._process.wait()}")
        decoded: dict[str, int] = json.loads(message)
        return decoded

    def _patience_s(self) -> float | None:
        """Tell how long nothing may happen before a child must be ended; None where all have been told to end."""
        deadlines = [child.deadline for child in self._children.values() if not child.silent]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _kill(self, child: Child) -> None:
        try:
            self._socket.send(json.dumps({"kill": child.name}).encode())
        except OSError as error:
            raise ServerLost(str(error)) from error

    def _ended(self, message: dict[str, int]) -> Ended:
        child = self._children.pop(message["id"])
        for descriptor in (child.result, child.output):
            with suppress(BlockingIOError):
                while child.read(descriptor) is not None:
                    pass
        self._forget(child)
        return child.ended(message["exit"])

    def _forget(self, child: _Forked) -> None:
        for descriptor in (child.result, child.output):
            with suppress(KeyError):
                self._selector.unregister(descriptor)
            os.close(descriptor)
