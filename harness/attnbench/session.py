"""The only loop over jobs: skip what is known, dispatch, append to the journal, notify."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from attnbench.analysis.crossover import crossovers, refinements
from attnbench.analysis.rows import rows
from attnbench.analysis.spent import spent
from attnbench.answers.further import further
from attnbench.contracts.record import Environment, Job, Outcome, Rates, Record, Status
from attnbench.execute.executor import Executor, NoAnswer, Progressed, Started
from attnbench.execute.local import LocalExecutor
from attnbench.execute.messages import MeasureRates
from attnbench.planning.budget import Budget
from attnbench.planning.learning_rates import further_jobs, without_doubtful
from attnbench.planning.plan import in_running_order, timed_like
from attnbench.planning.pruning import Known
from attnbench.planning.request import Request, check, prepare
from attnbench.planning.resume import renew
from attnbench.store import Plan, Store


class Opened(Struct, frozen=True, kw_only=True):
    """A run's folder is there, and these jobs of its plan are about to be done."""

    path: Path
    plan: Plan
    jobs: tuple[Job, ...]
    records: tuple[Record, ...] = ()


Notice = Opened | Started | Progressed | Record
Notify = Callable[[Notice], None]
Planner = Callable[[Request, Executor], Plan]

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


def quietly(_notice: Notice) -> None:
    """Hear what happens, and say nothing."""


def start(request: Request, out: Path, notify: Notify, *, planner: Planner = prepare) -> Path:
    """Plan a run, make its folder under `out` and measure it; give the folder.

    Raises UsageError before anything is written.
    """
    check(request)
    with closing(LocalExecutor(slots=request.threads)) as executor:
        planned = planner(request, executor)
        with Store.create(out, planned) as store:
            store.append(planned.environment)
            notify(Opened(path=store.path, plan=store.plan, jobs=planned.jobs))
            learn_rates(store, executor)
            executor.memory_bytes = planned.memory_bytes
            perform(store, planned.jobs, executor, notify, environment=planned.environment)
            search_rates(store, executor, notify, environment=planned.environment)
            refine(store, executor, notify, environment=planned.environment)
            pursue(store, executor, notify, environment=planned.environment)
            return store.path


def go_on(path: Path, notify: Notify, *, retry_failed: bool) -> Path:
    """Measure what a stored run still lacks; with `retry_failed`, what failed as well.

    Raises UsageError where the machine or its software is not what it was.
    """
    with (
        Store.open(path, write=True) as store,
        closing(LocalExecutor(slots=store.plan.environment.threads)) as executor,
    ):
        renewed, environment = renew(store.plan, executor)
        store.replan(renewed)
        store.append(environment)
        retried = RETRIED if retry_failed else ()
        store.replan(renewed.with_jobs(without_doubtful(renewed.jobs, store.pending(retry=retried))))
        jobs = store.pending(retry=retried)
        known = store.records()
        notify(Opened(path=path, plan=store.plan, jobs=tuple(jobs), records=tuple(known)))
        learn_rates(store, executor)
        executor.memory_bytes = store.plan.memory_bytes
        telling = [record for record in known if record.outcome.status == "ok" or not retry_failed]
        perform(store, jobs, executor, notify, environment=environment, history=telling)
        search_rates(store, executor, notify, environment=environment)
        refine(store, executor, notify, environment=environment)
        pursue(store, executor, notify, environment=environment)
    return path


def learn_rates(store: Store, executor: Executor) -> None:
    """Measure what the device itself can do, once a run and where its jobs are timed; that it fails ends nothing."""
    timed = [job.case for job in store.plan.jobs if job.probe.kind == "latency"]
    if not timed or store.rates() is not None:
        return
    device, threads = timed[0].device, store.plan.environment.threads
    try:
        dtypes = tuple(dict.fromkeys(case.dtype for case in timed))
        rates = executor.ask(MeasureRates(device=device, threads=threads, dtypes=dtypes), Rates)
    except NoAnswer as end:
        rates = Rates(device=device, threads=threads, reason=f"the process that measured {end}")
    store.append(rates)


def refine(store: Store, executor: Executor, notify: Notify, *, environment: Environment) -> None:
    """Measure between the lengths around each crossing, as often as the plan asks for and as it is worth while."""
    while store.plan.refine and _has_time(store.plan, store.records()) and (jobs := _between_lengths(store)):
        once_less = store.plan.with_jobs((*store.plan.jobs, *jobs), refine=store.plan.refine - 1)
        _perform_further(store, once_less, executor, notify, environment=environment)


def pursue(store: Store, executor: Executor, notify: Notify, *, environment: Environment) -> None:
    """Measure what the records so far call for, until they call for nothing: a search says what it asks next."""
    while jobs := further(store.plan, store.records()):
        plan = store.plan.with_jobs((*store.plan.jobs, *jobs))
        _perform_further(store, plan, executor, notify, environment=environment)
        search_rates(store, executor, notify, environment=environment)


def search_rates(store: Store, executor: Executor, notify: Notify, *, environment: Environment) -> None:
    """Follow up the trials of learning rates: further trials beyond the edges, then every seed at the best rate."""
    while jobs := further_jobs(store.plan.jobs, store.records()):
        plan = store.plan.with_jobs((*store.plan.jobs, *jobs))
        _perform_further(store, plan, executor, notify, environment=environment)


def _perform_further(store: Store, plan: Plan, executor: Executor, notify: Notify, *, environment: Environment) -> None:
    """Work off the jobs that a plan adds to the run's; planned before they are begun, an interrupted run knows them."""
    jobs = plan.jobs[len(store.plan.jobs) :]
    store.replan(plan)
    known = store.records()
    notify(Opened(path=store.path, plan=store.plan, jobs=jobs, records=tuple(known)))
    perform(store, jobs, executor, notify, environment=environment, history=known)


def _has_time(plan: Plan, records: Sequence[Record]) -> bool:
    """Tell whether the budget leaves time for two jobs such as the longest one."""
    timed = [record.seconds for record in records if record.job.timed_round and record.seconds]
    if plan.budget_s is None or not timed:
        return True
    return spent(records).total_s + 2 * max(timed) < plan.budget_s


def _between_lengths(store: Store) -> tuple[Job, ...]:
    """Plan what would tell crossings more closely: round after round, as all that is timed."""
    planned = {job.key for job in store.plan.jobs}
    known = [record for record in store.records() if record.job.key in planned]
    wanted = refinements(crossovers(rows(known)))
    jobs = (job for each in wanted for job in timed_like(store.plan.jobs, each.known, each.wanted))
    further = {job.key: job for job in jobs if job.key not in planned}
    return tuple(sorted(further.values(), key=lambda job: job.round))


def perform(
    store: Store,
    jobs: Sequence[Job],
    executor: Executor,
    notify: Notify,
    *,
    environment: Environment,
    history: Iterable[Record] = (),
) -> None:
    """Work jobs off: the only loop. Each record is in the journal before anyone hears of it.

    What `history` and earlier rounds have shown is not measured again. Interrupted, it ends every process, records what
    was under way as interrupted, and lets the interrupt pass.
    """
    before = list(history)
    known = Known(before, prune=store.plan.prune)
    budget = Budget(store.plan.budget_s, before, jobs, slots=environment.threads)
    under_way: dict[str, Job] = {}

    def keep(job: Job, outcome: Outcome, *, started_s: float, seconds: float) -> None:
        record = Record(
            run=store.plan.run,
            job=job,
            outcome=outcome,
            environment=environment.key,
            started_s=started_s,
            seconds=seconds,
        )
        store.append(record)
        known.add(record)
        budget.add(record)
        notify(record)

    def wanted() -> Iterator[Job]:
        for job in in_running_order(jobs, further_rounds_last=store.plan.budget_s is not None):
            reason = known.reason_to_skip(job)
            skipped = Outcome(status="skipped", detail=reason) if reason else budget.cut(job)
            if skipped is None:
                yield job
            else:
                keep(job, skipped, started_s=time.time(), seconds=0.0)

    try:
        for event in executor.run(wanted(), folder=store.path):
            if isinstance(event, Started):
                under_way[event.job.key] = event.job
                notify(event)
            elif isinstance(event, Progressed):
                notify(event)
            else:
                del under_way[event.job.key]
                keep(event.job, event.outcome, started_s=event.started_s, seconds=event.seconds)
    except BaseException:
        executor.close()
        for job in under_way.values():
            interrupted = Outcome(status="interrupted", detail="the run was interrupted; --resume measures it")
            keep(job, interrupted, started_s=time.time(), seconds=0.0)
        raise
