"""What every executor can do: answer questions and work jobs off, on this machine or elsewhere."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from attnbench.execute.events import Event
from attnbench.execute.messages import Question
from attnbench.record import Job

T = TypeVar("T")


class NoAnswer(Exception):  # noqa: N818 - it names what happened
    """A child that was asked what a plugin is ended without an answer; how it ended is the message."""


class Executor(Protocol):
    """The interface of `execute/local.py`."""

    def ask(self, question: Question, kind: type[T]) -> T:
        """Answer a question that is no job. Raises UsageError, and NoAnswer where its process broke."""
        ...

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Work through jobs in order; each is taken from the iterable when there is room for it."""
        ...

    def close(self) -> None:
        """End every process."""
        ...
