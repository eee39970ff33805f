"""A run's time budget, spent on the cases that need it most, given the records so far and the time that is left.

Every timed case gets one round first, then comes what is measured once, then three rounds each (fewer give no
interval), then the profile's; after those, extra rounds go to the widest intervals.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from attnbench.contracts import stats
from attnbench.contracts.record import ENOUGH, Job, Outcome, Record
from attnbench.contracts.units import duration
from attnbench.planning.request import PROFILES

# A case gets more rounds than its profile's only while half its interval is wider than this share of the median.
GOOD_ENOUGH = 0.01


class Budget:
    """The total time of a run in seconds; None is no limit. `records` were made before, `jobs` are to be done now.

    Trainings run `slots` at a time; `now_s` is a monotonic clock.
    """

    def __init__(
        self,
        total_s: float | None,
        records: Iterable[Record],
        jobs: Iterable[Job],
        *,
        slots: int,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_s, self.now_s, self.started_s = total_s, now_s, now_s()
        self._rounds: dict[int, list[Job]] = {}
        for job in jobs:
            self._rounds.setdefault(job.timed_round, []).append(job)
        self._medians: dict[str, dict[int, float]] = {}
        self._took_s: dict[str, float] = {}
        self._decided, self._cut = 1, dict[str, Outcome]()
        for record in records:
            self.started_s -= record.seconds / (1 if record.job.timed else slots)
            self.add(record)

    def add(self, record: Record) -> None:
        """Account for a record: its samples, and how long its job took."""
        question = record.job.question
        if not record.job.timed_round or record.outcome.status == "skipped":
            return
        if record.outcome.status != "ok":
            self._medians.pop(question, None)
        for measurement in record.outcome.measurements:
            values = [value for value in measurement.values if value is not None]
            if measurement.metric == "latency" and values and "once" not in measurement.flags:
                self._took_s[question] = record.seconds
                self._medians.setdefault(question, {})[record.job.round] = median(values)

    def cut(self, job: Job) -> Outcome | None:
        """Return the outcome of a job that there is no time for, or None."""
        if self.total_s is None:
            return None
        left_s = self.total_s - (self.now_s() - self.started_s)
        if job.timed_round > self._decided:
            self._decided = job.timed_round
            self._cut = dict(self._left_out(self._rounds[job.timed_round], left_s))
        if left_s <= self._took_s.get(job.question, 0.0):
            return self._short(job, "too little of it was left")
        return self._cut.get(job.question) if job.timed_round else None

    def _left_out(self, jobs: Sequence[Job], left_s: float) -> Iterable[tuple[str, Outcome]]:
        """Yield the cases that a round leaves out: the widest intervals come first, while there is time for them."""
        paid_s = 0.0
        timed = [job for job in jobs if job.question in self._medians]
        for job in sorted(timed, key=lambda job: (-self._need(job), self._took_s[job.question])):
            need, ordinary = self._need(job), PROFILES[job.protocol.profile].rounds
            if job.round > ordinary and need <= GOOD_ENOUGH:
                why = f"its interval is +-{need:.1%} already"
                yield job.question, Outcome(status="skipped", detail=why, facts={ENOUGH: True})
                continue
            aim = stats.FEWEST_REPLICATES if need == math.inf else ordinary
            lacking = min(aim - len(self._medians[job.question]), job.protocol.rounds - job.round + 1)
            one_s = self._took_s[job.question]
            cost_s = one_s * max(1, lacking)
            if paid_s + cost_s <= left_s:
                paid_s += cost_s
            elif paid_s + one_s <= left_s and need < math.inf:  # wider intervals have had their turn
                paid_s += one_s
            else:
                so_far = f"no interval yet; {lacking} more need {duration(cost_s)}"
                if need < math.inf:
                    so_far = f"+-{need:.1%} so far; another round needs {duration(one_s)}"
                yield job.question, self._short(job, so_far)

    def _need(self, job: Job) -> float:
        """Return half the interval's width as a share of the median; infinite where there is no interval yet."""
        estimate = stats.median_of_processes(list(self._medians[job.question].values()))
        if estimate.low is None or estimate.high is None:
            return math.inf
        return (estimate.high - estimate.low) / 2 / estimate.value

    def _short(self, job: Job, why: str) -> Outcome:
        """Return the outcome of a job cut for lack of time; tables do not show a round beyond those of the profile."""
        beyond = job.timed_round > PROFILES[job.protocol.profile].rounds
        detail = f"cut by --time-budget {duration(self.total_s or 0)}: {why}"
        return Outcome(status="skipped", detail=detail, facts={ENOUGH: True} if beyond else {})
