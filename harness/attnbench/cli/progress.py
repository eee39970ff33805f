"""The progress of a run and the time that is left; updated by one thread and shown by another."""

import time
from collections.abc import Iterable, Iterator
from threading import Lock

from msgspec import Struct

from attnbench.contracts.record import Job, Record
from attnbench.execute.executor import Progressed, Started
from attnbench.session import Opened


class Left(Struct, frozen=True, kw_only=True):
    """The time left; `whole` is false if some remaining jobs are of a kind that has not been timed yet."""

    seconds: float
    whole: bool


class View(Struct, frozen=True, kw_only=True):
    """A snapshot of a run: jobs done and in all, running jobs with their latest messages, and times."""

    done: int
    total: int
    running: tuple[tuple[Job, str], ...]
    elapsed_s: float
    left: Left | None


class Progress:
    """The state of a run; `update` and `view` may be called from different threads."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.records = list(opened.records)
        self._lock = Lock()
        self._left = {job.key: job for job in opened.jobs}
        self._total, self._started = len(self._left), time.monotonic()
        self._running: dict[str, tuple[Job, str]] = {}
        self._questions: dict[str, float] = {}
        self._kinds: dict[str, tuple[float, int]] = {}
        for record in opened.records:
            self._learn(record)

    def update(self, notice: Started | Progressed | Record) -> None:
        """Record a notice of the session."""
        job = notice.job
        with self._lock:
            if isinstance(notice, Record):
                self._running.pop(job.key, None)
                self._left.pop(job.key, None)
                self.records.append(notice)
                self._learn(notice)
            else:
                self._running[job.key] = (job, notice.text if isinstance(notice, Progressed) else "")

    def view(self) -> View:
        """Return a snapshot."""
        with self._lock:
            left, running = tuple(self._left.values()), tuple(self._running.values())
            expected = [self._expected(job) for job in left]
        return View(
            done=self._total - len(left),
            total=self._total,
            running=running,
            elapsed_s=time.monotonic() - self._started,
            left=self._time(left, expected),
        )

    def _learn(self, record: Record) -> None:
        if record.outcome.status == "interrupted":  # its full time is unknown
            return
        self._questions[record.job.question] = record.seconds
        if record.outcome.status != "skipped":
            spent, count = self._kinds.get(record.job.probe.kind, (0.0, 0))
            self._kinds[record.job.probe.kind] = (spent + record.seconds, count + 1)

    def _expected(self, job: Job) -> float | None:
        """Return the time of an earlier round, else the mean of the job's kind; None for a new kind."""
        spent, count = self._kinds.get(job.probe.kind, (0.0, 0))
        return self._questions.get(job.question, spent / count if count else None)

    def _time(self, left: Iterable[Job], expected: Iterable[float | None]) -> Left | None:
        """Add up the expected times: timed jobs run one at a time, trainings side by side."""
        pairs = list(zip(left, expected, strict=True))
        timings = [(job.timed, seconds) for job, seconds in pairs if seconds is not None]
        if not timings:
            return None
        trainings = sum(not job.timed for job, _ in pairs)
        slots = max(1, min(self.opened.plan.environment.threads, trainings))
        return Left(seconds=sum(_shared(timings, slots)), whole=len(timings) == len(pairs))


def _shared(timings: Iterable[tuple[bool, float]], slots: int) -> Iterator[float]:
    return (seconds if timed else seconds / slots for timed, seconds in timings)
