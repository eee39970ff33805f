"""A total of time, spent on the cells that need it most: from the records so far and the time that is left.

Every question gets one round first, then what is measured once, then three rounds each (below that there is no
interval), then the profile's; after those, further rounds go to whatever has a wide interval.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from attnbench.contracts import stats
from attnbench.contracts.record import ENOUGH, Job, Outcome, Record
from attnbench.contracts.units import duration
from attnbench.planning.plan import PROFILES

# Beyond the rounds of its profile a question is given more only while its interval is wider than this share.
GOOD_ENOUGH = 0.01


class Budget:
    """What a run may take in all, in seconds; None is no bound. `records` were made before, `jobs` are to be done now.

    Trainings run `slots` at a time; `now_s` is a clock that only goes forward.
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
        """Take in what a job found, and how long it took."""
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
        """Say why a job is not done, if so."""
        if self.total_s is None:
            return None
        left_s = self.total_s - (self.now_s() - self.started_s)
        if job.timed_round > self._decided:
            self._decided = job.timed_round
            self._cut = dict(self._shared_out(self._rounds[job.timed_round], left_s))
        if left_s <= self._took_s.get(job.question, 0.0):
            return self._short(job, "too little of it was left")
        return self._cut.get(job.question) if job.timed_round else None

    def _shared_out(self, jobs: Sequence[Job], left_s: float) -> Iterable[tuple[str, Outcome]]:
        """Choose whom a round leaves out: the neediest come first, as long as their further rounds can be paid."""
        paid_s = 0.0
        known = [job for job in jobs if job.question in self._medians]
        for job in sorted(known, key=lambda job: (-self._need(job), self._took_s[job.question])):
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
            elif paid_s + one_s <= left_s and need < math.inf:  # of what nobody needier will want
                paid_s += one_s
            else:
                has = "it has no interval yet" if need == math.inf else f"its interval is +-{need:.1%}"
                yield job.question, self._short(job, f"{has}, and what it lacks takes {duration(cost_s)}")

    def _need(self, job: Job) -> float:
        """Give half the interval's width as a share of the figure; without bound where there is no interval yet."""
        estimate = stats.median_of_processes(list(self._medians[job.question].values()))
        if estimate.low is None or estimate.high is None:
            return math.inf
        return (estimate.high - estimate.low) / 2 / estimate.value

    def _short(self, job: Job, why: str) -> Outcome:
        """Say that there is no time; a round beyond the profile's was promised to nobody, so no table tells of it."""
        beyond = job.timed_round > PROFILES[job.protocol.profile].rounds
        told = f"cut by --time-budget {duration(self.total_s or 0)}: {why}"
        return Outcome(status="skipped", detail=told, facts={ENOUGH: True} if beyond else {})
