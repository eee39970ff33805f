"""The parent's side: start a child process for each question, collect its messages, and kill it after its timeout."""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec
from msgspec import Struct

from attnbench.execute.messages import Answer, Perform, Progress, Question

_LOG_HEAD, _LOG_TAIL = 8 << 10, 24 << 10
_CHUNK = 1 << 16
_START_TIMEOUT_S = 120.0


class Exit(Struct, frozen=True, kw_only=True):
    """The end of a child. Without an `answer` it crashed, or it was `silent` until its timeout and was killed."""

    answer: Answer | None
    exit_code: int
    silent: bool = False
    log: str = ""


Message = tuple[int, Progress | Exit]  # the child's id, and what it sent or how it ended


class ServerLost(Exception):  # noqa: N818 - it names what happened
    """The fork server itself is gone, for instance killed by the kernel."""


class Log:
    """The beginning and the end of a child's output, in bounded memory."""

    def __init__(self) -> None:
        self.head, self.tail, self.total = b"", b"", 0

    def add(self, data: bytes) -> None:
        """Append output."""
        self.total += len(data)
        room = _LOG_HEAD - len(self.head)
        self.head, rest = self.head + data[:room], data[room:]
        self.tail = (self.tail + rest)[-_LOG_TAIL:]

    def text(self) -> str:
        """Return the output as text; bytes that are not UTF-8 become escapes."""
        left_out = self.total - len(self.head) - len(self.tail)
        middle = f"\n... {left_out} bytes left out ...\n".encode() if left_out else b""
        return (self.head + middle + self.tail).decode("utf-8", errors="backslashreplace")


class Child:
    """A running child: its messages, its output, and when it times out."""

    def __init__(self, id_: int, *, timeout_s: float) -> None:
        self.id, self.timeout_s = id_, timeout_s
        self.log, self.pending = Log(), b""
        self.answer: Answer | None = None
        self.silent = False
        self.deadline = time.monotonic() + timeout_s

    def receive(self, data: bytes) -> list[Message]:
        """Parse data from the child and return its progress; an answer is kept for its exit."""
        *lines, self.pending = (self.pending + data).split(b"\n")
        messages: list[Message] = []
        for line in lines:
            try:
                message = msgspec.json.decode(line, type=Progress | Answer)
            except msgspec.DecodeError:  # something else wrote to the descriptor: without an answer it is a crash
                continue
            if isinstance(message, Progress):
                messages.append((self.id, message))
                self.deadline = time.monotonic() + self.timeout_s
            else:
                self.answer = message
        return messages

    def exit(self, exit_code: int) -> Message:
        """Return how the child ended."""
        return self.id, Exit(answer=self.answer, exit_code=exit_code, silent=self.silent, log=self.log.text())


def newly_silent(children: Iterable[Child]) -> list[Child]:
    """Mark the children whose timeout has passed as silent, and return those not marked before."""
    now = time.monotonic()
    late = [child for child in children if not child.silent and child.deadline <= now]
    for child in late:
        child.silent = True
    return late


class _Forked(Child):
    """A child with two pipes: its messages, and its output."""

    def __init__(self, id_: int, *, messages: int, output: int, timeout_s: float) -> None:
        super().__init__(id_, timeout_s=timeout_s)
        self.messages, self.output = messages, output

    def read(self, descriptor: int) -> list[Message] | None:
        """Read what a pipe holds; None at its end."""
        data = os.read(descriptor, _CHUNK)
        if not data:
            return None
        if descriptor == self.output:
            self.log.add(data)
            return []
        return self.receive(data)


class ForkServer:
    """A running fork server and its children. Not thread-safe."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "attnbench.execute.server", str(theirs.fileno())]
        # torch imports numpy, which would start OpenBLAS's threads, and threads do not survive a fork.
        settings = {**os.environ, **environ, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=settings,
            start_new_session=True,  # Ctrl-C in the terminal must reach the parent only
        )
        theirs.close()
        self._socket, self._children, self._count = ours, dict[int, _Forked](), 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ)
        ours.settimeout(_START_TIMEOUT_S)
        self._receive()
        ours.settimeout(None)

    def ask(self, question: Question, *, timeout_s: float) -> int:
        """Start a child on a question and return its id. Raises ServerLost."""
        self._count += 1
        # The server passes the question on unread, as a file: a message on its socket has a largest size.
        text = os.memfd_create("question")
        os.write(text, msgspec.json.encode(question))
        os.lseek(text, 0, os.SEEK_SET)
        (messages, messages_end), (output, output_end) = os.pipe(), os.pipe()
        child = _Forked(self._count, messages=messages, output=output, timeout_s=timeout_s)
        for descriptor in (messages, output):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, child)
        gradients = isinstance(question, Perform) and question.job.case.differentiates
        request = json.dumps({"id": self._count, "gradients": gradients}).encode()
        try:
            socket.send_fds(self._socket, [request], [text, messages_end, output_end])
        except OSError as error:
            raise ServerLost(str(error)) from error
        finally:
            for descriptor in (text, messages_end, output_end):
                os.close(descriptor)
        self._children[self._count] = child
        return self._count

    def receive(self) -> list[Message]:
        """Wait for messages from at least one child, and return them. Raises ServerLost."""
        messages: list[Message] = []
        while self._children and not messages:
            ready = [key for key, _ in self._selector.select(self._patience_s())]
            # Pipes first: an exit closes its child's pipes, which may be among those that are ready.
            for key in sorted(ready, key=lambda key: key.data is None):
                if key.data is None:
                    messages.append(self._exit(self._receive()))
                elif (sent := key.data.read(key.fd)) is None:
                    self._selector.unregister(key.fd)
                else:
                    messages += sent
            for child in newly_silent(self._children.values()):
                self._kill(child)
        return messages

    def close(self) -> None:
        """Terminate the server and every process that it started."""
        self._socket.close()
        self._process.wait()
        for child in self._children.values():
            self._forget(child)
        self._children.clear()
        self._selector.close()

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
        """Return the seconds until the next timeout; None where every child has been killed already."""
        deadlines = [child.deadline for child in self._children.values() if not child.silent]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _kill(self, child: Child) -> None:
        try:
            self._socket.send(json.dumps({"kill": child.id}).encode())
        except OSError as error:
            raise ServerLost(str(error)) from error

    def _exit(self, message: dict[str, int]) -> Message:
        child = self._children.pop(message["id"])
        for descriptor in (child.messages, child.output):
            with suppress(BlockingIOError):
                while child.read(descriptor) is not None:
                    pass
        self._forget(child)
        return child.exit(message["exit"])

    def _forget(self, child: _Forked) -> None:
        for descriptor in (child.messages, child.output):
            with suppress(KeyError):
                self._selector.unregister(descriptor)
            os.close(descriptor)
