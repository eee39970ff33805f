"""The interface of executors, which run jobs on this machine or elsewhere, and the events that they yield."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec import Struct

from attnbench.contracts.record import Job, Outcome
from attnbench.execute.messages import Question

T = TypeVar("T")


class Started(Struct, frozen=True, kw_only=True):
    """A job's process was started."""

    job: Job


class Progressed(Struct, frozen=True, kw_only=True):
    """A running job reported progress."""

    job: Job
    text: str


class Finished(Struct, frozen=True, kw_only=True):
    """A job ended, whatever its outcome. `started_s` is seconds since the epoch, `seconds` the duration."""

    job: Job
    outcome: Outcome
    started_s: float
    seconds: float


Event = Started | Progressed | Finished


Figures = Callable[[Job], dict[str, float]]


def no_figures(_job: Job) -> dict[str, float]:
    """Return nothing: the job measures by itself."""
    return {}


class NoAnswer(Exception):  # noqa: N818 - it names what happened
    """A child process gave no answer, or none that counts; the message completes "the process that ..." with why."""


class Executor(Protocol):
    """What `execute/local.py` implements.

    `sources` are the files of plugins as processes have read them so far, with their hashes. A job whose plugin reads
    another content of any is interrupted. `import_timeout_s` limits the import of a plugin that is described.
    """

    sources: dict[str, str]
    import_timeout_s: float

    def ask(self, question: Question, kind: type[T], *, timeout_s: float | None = None) -> T:
        """Return the answer to a question that is not a job. Raises UsageError, and NoAnswer if its process fails."""
        ...

    def ask_each(self, questions: Sequence[Question], kind: type[T], *, timeout_s: float) -> list[T | NoAnswer]:
        """Return the answers to questions in their order, or why there is none; several are asked at a time."""
        ...

    def run(self, jobs: Iterable[Job], *, folder: Path | None = None, figures: Figures = no_figures) -> Iterator[Event]:
        """Run jobs in order and yield their events; a job is taken from the iterable when it can start.

        Training jobs keep their checkpoints in `folder`, that of the run; `figures` returns what a derived metric is
        computed from.
        """
        ...

    def close(self) -> None:
        """Terminate every process."""
        ...
