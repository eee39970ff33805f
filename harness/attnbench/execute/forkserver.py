"""The parent's end of a fork server: start children, collect what they send, kill them when they are overdue.

Whatever stops or ends the server is noticed here: it owes a reply to each request within a time.
"""

import json
import math
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from attnbench.execute import processes
from attnbench.execute.children import TICK_S, AwakeClock, Child, Message, ServerLost, to_kill
from attnbench.execute.messages import Perform, Question

_CHUNK = 1 << 16
_START_S = 120.0  # to import torch from a cold disk
_FORK_S = 60.0  # to import what gradients need
_REPLY_S = 4.0
_END_S = 30.0  # to free the memory of a child that was killed
_STOPPED_LOOKS = 3  # a whole tree that was stopped does not go on at one instant
_CLOSE_S = 1.2


class _Forked(Child):
    """A child with two pipes, its messages and its output; the server owes its next message about it until `due`."""

    def __init__(self, id_: int, *, messages: int, output: int, timeout_s: float, clock: AwakeClock) -> None:
        super().__init__(id_, timeout_s=timeout_s, clock=clock)
        self.messages, self.output = messages, output
        self.due, self.begun = math.inf, False

    def read(self, descriptor: int) -> list[Message] | None:
        """Read what a pipe holds; None at its end."""
        data = os.read(descriptor, _CHUNK)
        if not data:
            return None
        if descriptor == self.output:
            self.log.add(data)
            return []
        return self.receive(data)

    def read_rest(self) -> None:
        """Read what the pipes still hold; a process that got away may go on writing to them."""
        for descriptor in (self.messages, self.output):
            with suppress(BlockingIOError):
                for _ in range(1 << 8):
                    if self.read(descriptor) is None:
                        break


class ForkServer:
    """A running fork server and its children. Not thread-safe."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._clock, self._children, self._count = AwakeClock(), dict[int, _Forked](), 0
        self._selector, self._messages = selectors.DefaultSelector(), list[Message]()
        self._server: int | None = None  # its process's id, once it serves
        self._checked, self._looks = self._clock.now(), 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # torch imports numpy, which would start OpenBLAS's threads, and threads do not survive a fork.
        settings = {**os.environ, **environ, "OPENBLAS_NUM_THREADS": "1"}
        self._socket = ours
        self._selector.register(ours, selectors.EVENT_READ)
        self._guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "attnbench.execute.server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=settings,
            start_new_session=True,  # Ctrl-C in the terminal must reach the parent only
        )
        theirs.close()
        self._ends = [os.pidfd_open(self._guard.pid)]
        self._selector.register(self._ends[0], selectors.EVENT_READ)
        self._due = self._clock.now() + _START_S
        try:
            while self._server is None:
                self._turn()
        except BaseException:
            self.close()
            raise

    def ask(self, question: Question, *, timeout_s: float) -> int:
        """Start a child on a question and return its id; if the server is lost, `receive` raises it."""
        self._count += 1
        # The server passes the question on unread, as a file: a message on its socket has a largest size.
        text = os.memfd_create("question")
        os.write(text, msgspec.json.encode(question))
        os.lseek(text, 0, os.SEEK_SET)
        (messages, messages_end), (output, output_end) = os.pipe(), os.pipe()
        child = _Forked(self._count, messages=messages, output=output, timeout_s=timeout_s, clock=self._clock)
        self._children[self._count] = child
        child.deadline, child.due = math.inf, self._clock.now() + _FORK_S
        for descriptor in (messages, output):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, child)
        gradients = isinstance(question, Perform) and question.job.case.differentiates
        request = json.dumps({"id": self._count, "gradients": gradients}).encode()
        with suppress(OSError):
            socket.send_fds(self._socket, [request], [text, messages_end, output_end])
        for descriptor in (text, messages_end, output_end):
            os.close(descriptor)
        return self._count

    def has_begun(self, id_: int) -> bool:
        """Return whether a child was forked, so that what happened since may be its work."""
        return id_ not in self._children or self._children[id_].begun

    def receive(self) -> list[Message]:
        """Wait for messages from at least one child, and return them. Raises ServerLost."""
        while self._children and not self._messages:
            try:
                self._turn()
            except ServerLost:
                if not self._messages:  # what was received before the loss counts
                    raise
        messages, self._messages = self._messages, []
        return messages

    def close(self) -> None:
        """Terminate the server and every process that it started."""
        self._socket.close()
        for end in self._ends:  # the guard ends once all others have
            _wait(end, _CLOSE_S)
        if (server := self._server) is not None and not _wait(self._ends[-1], 0):  # it is stopped, the guard killed
            processes.end(lambda: _tree(server), within_s=_CLOSE_S)
        if not _wait(self._ends[0], 0):  # the guard is stopped
            processes.end(lambda: processes.descendants(self._guard.pid), within_s=_CLOSE_S)
            self._guard.kill()
        self._guard.wait()
        for end in self._ends:
            os.close(end)
        for child in self._children.values():
            self._forget(child)
        self._children.clear()
        self._selector.close()

    def _turn(self) -> None:
        """Wait a tick at most for messages, and keep those of children. Raises ServerLost."""
        ready = [key for key, _ in self._selector.select(self._patience_s())]
        # Pipes first: an exit closes its child's pipes. The guard's end last: what the server sent before it counts.
        for key in sorted(ready, key=lambda key: (key.data is None, key.fd == self._ends[0])):
            if key.data is not None:
                self._read(key.data, key.fd)
            elif key.fd == self._socket.fileno():
                self._messages += self._handle(self._receive())
            elif len(ready) == 1:
                raise ServerLost(_how_it_ended(self._guard.wait()))
        now = self._clock.now()
        for child in to_kill(self._children.values(), now):
            child.due = now + _REPLY_S
            with suppress(OSError):
                self._socket.send(json.dumps({"kill": child.id}).encode())
        self._check(now)

    def _read(self, child: _Forked, descriptor: int) -> None:
        sent = child.read(descriptor)
        if sent is None:
            self._selector.unregister(descriptor)
        else:
            self._messages += sent

    def _patience_s(self) -> float:
        children = self._children.values()
        next_s = min((child.due if child.killed else min(child.due, child.deadline) for child in children), default=0.0)
        return max(0.0, min(TICK_S, next_s - self._clock.now())) if children else TICK_S

    def _check(self, now: float) -> None:
        """Raise ServerLost if a reply is overdue, or if the server was seen stopped a few times in a row."""
        if any(due <= now for due in (self._due, *(child.due for child in self._children.values()))):
            raise ServerLost("did not answer in time")
        if now - self._checked < TICK_S / 2:
            return
        self._checked = now
        servers = processes.children(self._guard.pid) if self._server is None else [self._server]
        stopped = any(processes.state(pid) == "T" for pid in servers)
        self._looks = self._looks + 1 if stopped else 0
        if self._looks >= _STOPPED_LOOKS:
            raise ServerLost("was stopped by a signal")

    def _receive(self) -> dict[str, Any]:
        try:
            message = self._socket.recv(_CHUNK)
        except OSError as error:
            raise ServerLost(f"was gone: {error}") from error
        if not message:
            _wait(self._ends[0], _REPLY_S)
            raise ServerLost(_how_it_ended(self._guard.poll() or 0))
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def _handle(self, message: dict[str, Any]) -> list[Message]:
        if "failed" in message:
            raise ServerLost(f"could not start: {message['failed']}")
        if "ready" in message:
            try:
                self._ends.append(os.pidfd_open(message["ready"]))
            except OSError as error:
                raise ServerLost("ended as it started") from error
            self._server, self._due = message["ready"], math.inf
            return []
        child = self._children.get(message["id"])
        if child is None:  # it ended by itself, just before it was to be killed
            return []
        if "forked" in message:
            child.begun, child.due = True, math.inf
            child.restart()
        elif "killed" in message:
            child.due = self._clock.now() + _END_S
        else:
            return [self._exit(child, message)]
        return []

    def _exit(self, child: _Forked, message: dict[str, int]) -> Message:
        del self._children[child.id]
        child.read_rest()
        self._forget(child)
        if "errno" in message:
            child.fault = f"could not be started: {os.strerror(message['errno'])}"
        return child.exit(message["exit"])

    def _forget(self, child: _Forked) -> None:
        for descriptor in (child.messages, child.output):
            with suppress(KeyError):
                self._selector.unregister(descriptor)
            os.close(descriptor)


def _wait(pidfd: int, seconds: float) -> bool:
    """Wait for a process to end, for so many seconds at most; return whether it has."""
    return bool(select.select([pidfd], [], [], seconds)[0])


def _tree(pid: int) -> list[int]:
    return [] if processes.has_ended(pid) else [*processes.descendants(pid), pid]


def _how_it_ended(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number <= 0:
        return f"exited with code {code}"
    return f"was ended by {signal_name(number)}"


def signal_name(number: int) -> str:
    """Return the name of a signal; a real-time signal has a number alone."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
