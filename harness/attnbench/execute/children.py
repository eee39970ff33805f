"""Children as the parent sees them: what they have sent, how long they may stay silent, and how they ended."""

import time
from collections.abc import Iterable
from typing import TypeVar

from msgspec import Struct

from attnbench.execute import answers
from attnbench.execute.log import Log
from attnbench.execute.messages import Answer, Progress

C = TypeVar("C", bound="Child")

TICK_S = 1.0  # the longest that a parent waits before it looks at its clock


class Exit(Struct, frozen=True, kw_only=True):
    """The end of a child. Without an `answer` it crashed, or it was `silent` until its timeout and was killed.

    `garbled` marks one that sent something that is no message. `fault` completes "the process that ..." where it was
    killed for what it sent, or could not be started.
    """

    answer: Answer | None
    exit_code: int
    silent: bool = False
    garbled: bool = False
    fault: str = ""
    log: str = ""


Message = tuple[int, Progress | Exit]  # the child's id, and what it sent or how it ended


class ServerLost(Exception):  # noqa: N818 - it names what happened
    """The fork server itself is gone or no longer serves; the message completes "the fork server ..."."""


class AwakeClock:
    """A clock that stands still while this process is stopped: a paused container is nobody's silence."""

    def __init__(self) -> None:
        self._seen, self._now = time.monotonic(), 0.0

    def now(self) -> float:
        """Return the seconds so far; between two calls at most two ticks pass."""
        seen, self._seen = self._seen, time.monotonic()
        self._now += min(self._seen - seen, 2 * TICK_S)
        return self._now


class Child:
    """A running child: its messages, its output, and when it times out."""

    def __init__(self, id_: int, *, timeout_s: float, clock: AwakeClock) -> None:
        self.id, self.timeout_s, self._clock = id_, timeout_s, clock
        self.log, self.pending = Log(), b""
        self.answer: Answer | None = None
        self.silent, self.killed, self.garbled, self.fault = False, False, False, ""
        self.restart()

    def restart(self) -> None:
        """Begin the timeout anew."""
        self.deadline = self._clock.now() + self.timeout_s

    def receive(self, data: bytes) -> list[Message]:
        """Parse data from the child and return its progress; an answer is kept for its exit."""
        *lines, self.pending = (self.pending + data).split(b"\n")
        if len(self.pending) > answers.LONGEST_LINE or any(len(line) > answers.LONGEST_LINE for line in lines):
            self.fault = f"sent more than {answers.LONGEST_LINE >> 20} MiB in place of an answer"
            self.pending = b""
            return []
        messages: list[Message] = []
        for message in map(answers.parse, lines):
            if isinstance(message, Progress):
                messages.append((self.id, message))
                self.restart()
            elif message is None:
                self.garbled = True
            else:
                self.fault = self.fault or ("answered more than once" if self.answer else "")
                self.answer = message
        return messages

    def exit(self, exit_code: int) -> Message:
        """Return how the child ended."""
        answer = None if self.fault else self.answer
        ended = Exit(
            answer=answer,
            exit_code=exit_code,
            silent=self.silent,
            garbled=self.garbled,
            fault=self.fault,
            log=self.log.text(),
        )
        return self.id, ended


def to_kill(children: Iterable[C], now: float) -> list[C]:
    """Return the children whose timeout has passed or that are at fault, each once."""
    due = [child for child in children if not child.killed and (child.fault or child.deadline <= now)]
    for child in due:
        child.killed, child.silent = True, not child.fault
    return due
