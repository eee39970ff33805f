"""What every executor can do: answer questions and work jobs off, on this machine or elsewhere."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from attnbench.contracts.record import Job
from attnbench.execute.events import Event
from attnbench.execute.messages import Question

T = TypeVar("T")


class NoAnswer(Exception):  # noqa: N818 - it names what happened
    """A child that was asked what a plugin is ended without an answer; how it ended is the message."""


class Executor(Protocol):
    """The interface of `execute/local.py`."""

    def ask(self, question: Question, kind: type[T]) -> T:
        """Answer a question that is no job. Raises UsageError, and NoAnswer where its process broke."""
        ...

    def run(self, jobs: Iterable[Job], *, folder: Path | None = None) -> Iterator[Event]:
        """Work through jobs in order; each is taken from the iterable when there is room for it.

        `folder` is the run's: there a training leaves its checkpoints.
        """
        ...

    def close(self) -> None:
        """End every process."""
        ...
