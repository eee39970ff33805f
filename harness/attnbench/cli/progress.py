"""The progress of a run and the time that is left; updated by one thread and shown by another."""

import re
import time
from threading import Lock

from msgspec import Struct

from attnbench.analysis.time_spent import time_spent
from attnbench.contracts.case import Identity
from attnbench.contracts.record import Job, Record
from attnbench.execute.executor import Progressed, Started
from attnbench.planning.duration import Durations, Running
from attnbench.report.axes import variant_labels
from attnbench.session import Opened

_STEPS = re.compile(r"step (\d+)/(\d+)")


class View(Struct, frozen=True, kw_only=True):
    """A snapshot of a run: jobs done and in all, running jobs with their latest messages, and times."""

    done: int
    total: int
    running: tuple[tuple[Job, str], ...]
    elapsed_s: float
    left_s: float


class Progress:
    """The state of a run; `update` and `view` may be called from different threads."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.records = list(opened.records)
        self._lock = Lock()
        self._left = {job.key: job for job in opened.jobs}
        self._total, self._started = len(self._left), time.monotonic()
        self._before_s = time_spent(opened.records).total_s
        self._running: dict[str, tuple[Job, str]] = {}
        self._since: dict[str, float] = {}
        self._durations = Durations(opened.records)
        self._names = variant_labels({_identity(job): job.case.options for job in opened.plan.jobs})

    def update(self, notice: Started | Progressed | Record) -> None:
        """Record a notice of the session."""
        job = notice.job
        with self._lock:
            if isinstance(notice, Record):
                self._running.pop(job.key, None)
                self._since.pop(job.key, None)
                self._left.pop(job.key, None)
                self.records.append(notice)
                self._durations.add(notice)
            else:
                self._since.setdefault(job.key, time.monotonic())
                self._running[job.key] = (job, notice.text if isinstance(notice, Progressed) else "")

    def named(self, job: Job) -> str:
        """Return the words that name a job: probe, task, pass, level, variant with its options, sizes, round."""
        case, probe = job.case, job.probe
        kind = probe.declared.name if probe.declared else "" if probe.kind == "accuracy" else probe.kind
        level = "" if case.level == "core" else f"{case.level} level"
        words = [kind, probe.label, case.passes, level, self._names[_identity(job)], "again" if probe.twin else ""]
        words += [f"seq {case.shape.seq_k}", f"heads {case.shape.heads}"]
        if job.protocol.rounds > 1:
            words.append(f"{'round' if job.timed else 'seed'} {job.round}/{job.protocol.rounds}")
        return " ".join(word for word in words if word)

    def running_names(self) -> frozenset[str]:
        """Return the names of the variants that are being measured, as tables have them."""
        with self._lock:
            return frozenset(self._names[_identity(job)] for job, _ in self._running.values())

    @property
    def counts(self) -> tuple[int, int]:
        """The jobs done, and all."""
        return self._total - len(self._left), self._total

    def view(self) -> View:
        """Return a snapshot."""
        now, plan = time.monotonic(), self.opened.plan
        with self._lock:
            (done, total), running = self.counts, tuple(self._running.values())
            started = [
                Running(job=job, since_s=now - self._since[job.key], share=_share(text)) for job, text in running
            ]
            waiting = [job for key, job in self._left.items() if key not in self._running]
            left_s = self._durations.left_s(waiting, started, threads=plan.environment.threads)
        elapsed_s = now - self._started
        if plan.budget_s is not None:
            left_s = min(left_s, max(0.0, plan.budget_s - self._before_s - elapsed_s))
        return View(
            done=done,
            total=total,
            running=running,
            elapsed_s=elapsed_s,
            left_s=left_s,
        )


def _identity(job: Job) -> Identity:
    return (*job.case.identity, job.origin.name)


def _share(text: str) -> float:
    """Return the share of its steps that a training says to have done, 0 where it says none."""
    steps = _STEPS.match(text)
    return int(steps[1]) / max(1, int(steps[2])) if steps else 0.0
