"""The only loop over jobs: skip what is settled, dispatch the rest, append to the journal, notify."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.crossover import crossovers, refinements
from attnbench.analysis.rows import Row, rows
from attnbench.analysis.time_spent import time_spent
from attnbench.contracts.metrics import Metric, metric_named, passes_of
from attnbench.contracts.record import Environment, Job, Outcome, Rates, Record, Status
from attnbench.execute.executor import Executor, Figures, Finished, NoAnswer, Progressed, Started, no_figures
from attnbench.execute.local import LocalExecutor
from attnbench.execute.messages import MeasureRates
from attnbench.planning.budget import Budget
from attnbench.planning.jobs import in_running_order, timed_like
from attnbench.planning.learning_rates import further_jobs, without_doubtful
from attnbench.planning.plan import prepare
from attnbench.planning.pruning import Pruner
from attnbench.planning.request import Request
from attnbench.planning.resume import renew
from attnbench.plugins.exact import base_of
from attnbench.report.reported import rows_of
from attnbench.store import Plan, Store


class Opened(Struct, frozen=True, kw_only=True):
    """A run's folder exists, and these jobs of its plan are about to be done."""

    path: Path
    plan: Plan
    jobs: tuple[Job, ...]
    records: tuple[Record, ...] = ()


Notice = Opened | Started | Progressed | Record
Notify = Callable[[Notice], None]
Planner = Callable[[Request, Executor], Plan]
# Returns the jobs that the searches of a plan call for next, given the records so far; none ends them.
Further = Callable[[Plan, Sequence[Record]], Sequence[Job]]

RETRIED: tuple[Status, ...] = (
    "error",
    "crash",
    "timeout",
    "oom_host",
    "oom_device",
    "device_lost",
    "invalid_output",
    "skipped",
)


_INTERRUPTED = Outcome(status="interrupted", detail="the run was interrupted; --resume measures it")


def quietly(_notice: Notice) -> None:
    """Ignore a notice."""


def start(request: Request, out: Path, notify: Notify, *, further: Further, planner: Planner = prepare) -> Path:
    """Plan a run, create its folder under `out`, measure it, and return the folder.

    Raises UsageError before anything is written.
    """
    with closing(LocalExecutor(slots=request.threads, memory_bytes=request.memory_bytes)) as executor:
        plan = planner(request, executor)
        with Store.create(out, plan) as store:
            store.append(plan.environment)
            session = Session(store, executor, notify, plan.environment)
            session.measure(plan.jobs, further=further)
            return store.path


def go_on(path: Path, notify: Notify, *, retry_failed: bool, further: Further) -> Path:
    """Measure what a stored run still lacks and return its folder; with `retry_failed`, repeat what failed.

    Raises UsageError where the machine or its software has changed.
    """
    with (
        Store.open(path, write=True) as store,
        closing(LocalExecutor(slots=store.plan.environment.threads)) as executor,
    ):
        executor.memory_bytes = store.plan.memory_bytes
        plan, environment = renew(store.plan, executor, store.records())
        store.replan(plan)
        store.append(environment)
        retried = RETRIED if retry_failed else ()
        store.replan(plan.with_jobs(without_doubtful(plan.jobs, store.pending(retry=retried))))
        session = Session(store, executor, notify, environment)
        session.measure(store.pending(retry=retried), retry_failed=retry_failed, further=further)
        return path


class _Settled:
    """What records settle about the jobs to come: cases that need no further job, and what the time budget allows."""

    def __init__(self, plan: Plan, records: Iterable[Record], jobs: Sequence[Job], *, slots: int) -> None:
        before = list(records)
        self._pruner = Pruner(before, prune=plan.prune)
        self._budget = Budget(plan.budget_s, before, jobs, slots=slots)

    def add(self, record: Record) -> None:
        """Account for a new record."""
        self._pruner.add(record)
        self._budget.add(record)

    def skip(self, job: Job) -> Outcome | None:
        """Return the outcome of a job that need not be run, or None."""
        reason = self._pruner.reason_to_skip(job)
        return Outcome(status="skipped", detail=reason) if reason else self._budget.cut(job)


class Session(Struct, frozen=True):
    """A run being measured: its open store, the executor of its jobs, and the listener to its notices."""

    store: Store
    executor: Executor
    notify: Notify
    environment: Environment

    def measure(self, jobs: Sequence[Job], *, further: Further, retry_failed: bool = False) -> None:
        """Measure jobs, then what their records call for: learning rates, lengths around crossings, searches.

        Swaps of models that the run trains come after their training, and metrics derived from other figures last.
        """
        records = self.store.records()
        history = [record for record in records if record.outcome.status == "ok" or not retry_failed]
        self.notify(self._opened(jobs, records))
        self.measure_rates()
        measured = [job for job in jobs if not job.derived]
        self.perform([job for job in measured if base_of(job) is None], history=history)
        self.perform([job for job in measured if base_of(job) is not None], history=history)
        self.search_learning_rates()
        self.refine()
        self.pursue(further)
        self.perform([job for job in jobs if job.derived], history=history, figures=self._figures())

    def measure_rates(self) -> None:
        """Measure the device's own bandwidth and arithmetic rates, once a run that times jobs; record a failure."""
        timed = [job.case for job in self.store.plan.jobs if job.probe.kind == "latency"]
        if not timed or self.store.rates() is not None:
            return
        device, threads = timed[0].device, self.store.plan.environment.threads
        try:
            dtypes = tuple(dict.fromkeys(case.dtype for case in timed))
            rates = self.executor.ask(MeasureRates(device=device, threads=threads, dtypes=dtypes), Rates)
        except NoAnswer as end:
            rates = Rates(device=device, threads=threads, reason=f"the process that measured {end}")
        self.store.append(rates)

    def search_learning_rates(self) -> None:
        """Follow up the trials of learning rates: trials beyond the edges, then every seed at the best rate."""
        while jobs := further_jobs(self.store.plan.jobs, self.store.records()):
            self._extend(jobs)

    def refine(self) -> None:
        """Measure between the lengths around each crossing, as often as the plan asks for and time allows."""
        while self.store.plan.refine and self._has_time() and (jobs := self._between_lengths()):
            self._extend(jobs, refine=self.store.plan.refine - 1)

    def pursue(self, further: Further) -> None:
        """Measure what the plan's searches call for, until they end."""
        while jobs := further(self.store.plan, self.store.records()):
            self._extend(jobs)
            self.search_learning_rates()

    def perform(self, jobs: Sequence[Job], *, history: Iterable[Record] = (), figures: Figures = no_figures) -> None:
        """Do jobs: the only loop. Each record is in the journal before the listener is notified.

        What `history` and earlier rounds have settled is skipped. When interrupted, end every process, record the jobs
        in progress as interrupted, and let the interrupt pass.
        """
        settled = _Settled(self.store.plan, history, jobs, slots=self.environment.threads)
        running: dict[str, Job] = {}
        try:
            for event in self.executor.run(self._wanted(jobs, settled), folder=self.store.path, figures=figures):
                if isinstance(event, Finished):
                    del running[event.job.key]
                    self._keep(event, settled)
                    continue
                if isinstance(event, Started):
                    running[event.job.key] = event.job
                self.notify(event)
        except BaseException:
            self.executor.close()
            for job in running.values():
                self._keep(_unmeasured(job, _INTERRUPTED), settled)
            raise

    def _figures(self) -> Figures:
        """Return a lookup of the figures that a derived metric needs: those of its job's case and round."""
        of_case = {
            (row.metric, row.identity, *row.case.axes().values()): row
            for row in rows_of(self.store)
            if row.value is not None
        }

        def figures(job: Job) -> dict[str, float]:
            needs = job.probe.declared.needs if job.probe.declared else ()
            return {name: value for name in needs if (value := _figure(of_case, job, metric_named(name))) is not None}

        return figures

    def _wanted(self, jobs: Sequence[Job], settled: "_Settled") -> Iterator[Job]:
        """Yield the jobs to be run, in order, and record the others as skipped."""
        for job in in_running_order(jobs, further_rounds_last=self.store.plan.budget_s is not None):
            skipped = settled.skip(job)
            if skipped is None:
                yield job
            else:
                self._keep(_unmeasured(job, skipped), settled)

    def _keep(self, finished: Finished, settled: "_Settled") -> None:
        record = Record(
            run=self.store.plan.run,
            job=finished.job,
            outcome=finished.outcome,
            environment=self.environment.key,
            started_s=finished.started_s,
            seconds=finished.seconds,
        )
        self.store.append(record)
        settled.add(record)
        self.notify(record)

    def _extend(self, jobs: Sequence[Job], *, refine: int | None = None) -> None:
        """Add jobs to the plan and do them; planned before they begin, they are not lost to a run that is resumed."""
        plan, records = self.store.plan, self.store.records()
        left = plan.refine if refine is None else refine
        self.store.replan(plan.with_jobs((*plan.jobs, *jobs), refine=left))
        self.notify(self._opened(jobs, records))
        self.perform(jobs, history=records)

    def _opened(self, jobs: Sequence[Job], records: Sequence[Record]) -> Opened:
        return Opened(path=self.store.path, plan=self.store.plan, jobs=tuple(jobs), records=tuple(records))

    def _has_time(self) -> bool:
        """Return whether the budget leaves time for two jobs as long as the longest one."""
        records = self.store.records()
        timed = [record.seconds for record in records if record.job.timed_round and record.seconds]
        if self.store.plan.budget_s is None or not timed:
            return True
        return time_spent(records).total_s + 2 * max(timed) < self.store.plan.budget_s

    def _between_lengths(self) -> tuple[Job, ...]:
        """Return the jobs that locate crossings more closely, round by round like all timed jobs."""
        planned = {job.key for job in self.store.plan.jobs}
        records = [record for record in self.store.records() if record.job.key in planned]
        wanted = refinements(crossovers(rows(records)))
        jobs = (job for each in wanted for job in timed_like(self.store.plan.jobs, each.measured, each.wanted))
        added = {job.key: job for job in jobs if job.key not in planned}
        return tuple(sorted(added.values(), key=lambda job: job.round))


def _figure(of_case: Mapping[Any, Row], job: Job, metric: Metric) -> float | None:
    """Return the figure of a metric of a job's case, as it was in the job's round if rounds repeat it."""
    case = replace(job.case, passes=passes_of(metric, [job.case.passes])[-1])
    row = of_case.get((metric.name, (*case.identity, job.origin.name), *case.axes().values()))
    return row.medians.get(job.round, row.value) if row is not None else None


def _unmeasured(job: Job, outcome: Outcome) -> Finished:
    return Finished(job=job, outcome=outcome, started_s=time.time(), seconds=0.0)
