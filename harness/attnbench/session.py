"""A run from request to journal: what is asked is checked and planned, and the only loop over jobs works it off."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from attnbench import plan, registry, suite
from attnbench.case import digest
from attnbench.describe import Description, TaskDescription
from attnbench.errors import UsageError
from attnbench.execute.events import Event, Progressed, Started
from attnbench.execute.local import LocalExecutor
from attnbench.execute.messages import DescribeMachine, DescribeTask, DescribeVariant, Question
from attnbench.plan import Candidate, Exam, Setting, Workloads
from attnbench.record import Allocator, Environment, Job, Origin, Outcome, Profile, Record, Status
from attnbench.record import Protocol as MeasuringProtocol
from attnbench.registry import Entry
from attnbench.specs import Spec, parse_specs
from attnbench.store import Plan, Store, new_run_id
from attnbench.suite import Sweep

T = TypeVar("T")


class Opened(Struct, frozen=True, kw_only=True):
    """A run's folder is there, and these jobs of its plan are about to be done."""

    path: Path
    plan: Plan
    jobs: tuple[Job, ...]
    records: tuple[Record, ...] = ()


Notice = Opened | Started | Progressed | Record
Notify = Callable[[Notice], None]

FLOOR = "empty"
# The harness's own revision is recorded but does not forbid going on: what it measures is in each job's key.
_MAY_DIFFER_ON_RESUME = ("commit", "dirty")
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


class Executor(Protocol):
    """What works jobs off: on this machine, or elsewhere."""

    def ask(self, question: Question, kind: type[T]) -> T:
        """Answer a question that is no job. Raises UsageError."""
        ...

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """Work through jobs in order; each is taken from the iterable when there is room for it."""
        ...

    def close(self) -> None:
        """End every process."""
        ...


class Request(Struct, frozen=True, kw_only=True):
    """What `attnbench run` was asked for. None leaves the profile's own value."""

    threads: int
    suite: str = "standard"
    sweep: Sweep = Sweep()
    device: str = "auto"
    profile: Profile = "default"
    rounds: int | None = None
    timeout_s: float | None = None
    seed: int = 0
    hot: bool = False
    allocator: Allocator = "default"
    command: tuple[str, ...] = ()


def quietly(_notice: Notice) -> None:
    """Hear what happens, and say nothing."""


def start(request: Request, out: Path, notify: Notify) -> Path:
    """Plan a run, make its folder under `out` and measure it; give the folder.

    Raises UsageError before anything is written.
    """
    check(request)
    with closing(LocalExecutor(slots=request.threads)) as executor:
        planned = prepare(request, executor)
        with Store.create(out, planned) as store:
            store.append(planned.environment)
            notify(Opened(path=store.path, plan=store.plan, jobs=planned.jobs))
            perform(store, planned.jobs, executor, notify)
            return store.path


def go_on(path: Path, notify: Notify, *, retry_failed: bool) -> Path:
    """Measure what a stored run still lacks; with `retry_failed`, what failed as well.

    Raises UsageError where the machine or its software is not what it was.
    """
    with (
        Store.open(path, write=True) as store,
        closing(LocalExecutor(slots=store.plan.environment.threads)) as executor,
    ):
        store.replan(renew(store.plan, executor))
        jobs = store.pending(retry=RETRIED if retry_failed else ())
        known = store.records()
        notify(Opened(path=path, plan=store.plan, jobs=tuple(jobs), records=tuple(known)))
        perform(store, jobs, executor, notify, history=() if retry_failed else known)
    return path


def check(request: Request) -> None:
    """Find the mistakes that can be found without starting a process. Raises UsageError."""
    sweep = suite.overlay(find_suite(request.suite).for_device("cpu"), request.sweep)
    plan.read_sweep(sweep)
    _named_once([registry.find(spec.name, "variants", flag="--variants") for spec in _variants(sweep)])
    for spec in _tasks(sweep):
        registry.find(spec.name, "tasks", flag="--tasks")


def prepare(request: Request, executor: Executor) -> Plan:
    """Ask the machine and the plugins what they are, and plan the run. Raises UsageError; writes nothing."""
    machine = ask_machine(executor, request.device, threads=request.threads, allocator=request.allocator)
    sweep = suite.overlay(find_suite(request.suite).for_device(machine.device), request.sweep)
    workloads = plan.read_sweep(sweep)
    _check_dtypes(workloads, machine)
    candidates = list({digest(one): one for one in (_candidate(spec, executor) for spec in _variants(sweep))}.values())
    exams = [_exam(spec, executor) for spec in _tasks(sweep)] if "accuracy" in workloads.metrics else []
    setting = Setting(
        device=machine.device,
        protocol=_protocol(request),
        floor=_candidate(Spec(name=FLOOR), executor),
        seed=request.seed,
    )
    created_s = time.time()
    return Plan(
        run=new_run_id(created_s),
        created_s=created_s,
        command=request.command,
        sweep=msgspec.to_builtins(sweep),
        jobs=plan.plan_jobs(workloads, candidates, exams, setting),
        environment=machine,
    )


def renew(old: Plan, executor: Executor) -> Plan:
    """Plan the rest of a stored run: the same jobs, with the sources that its plugins have today.

    Raises UsageError, naming what changed, where the machine or its software is not what it was.
    """
    was = old.environment
    now = ask_machine(executor, was.device, threads=was.threads, allocator=was.allocator)
    for field in Environment.__struct_fields__:
        if field not in _MAY_DIFFER_ON_RESUME and getattr(was, field) != getattr(now, field):
            raise UsageError(
                f"--resume: {field.replace('_', ' ')} was {getattr(was, field)!r} and is {getattr(now, field)!r}; "
                "numbers of both would not be comparable, so start a new run"
            )
    return msgspec.structs.replace(old, jobs=tuple(_with_todays_sources(old.jobs, executor)))


def perform(
    store: Store, jobs: Sequence[Job], executor: Executor, notify: Notify, *, history: Iterable[Record] = ()
) -> None:
    """Work jobs off: the only loop. Each record is in the journal before anyone hears of it.

    What `history` and earlier rounds have shown is not measured again. Interrupted, it ends every process, records what
    was under way as interrupted, and lets the interrupt pass.
    """
    known = _History(history)
    environment = store.plan.environment.key
    under_way: dict[str, Job] = {}

    def keep(job: Job, outcome: Outcome, *, started_s: float, seconds: float) -> None:
        record = Record(
            run=store.plan.run,
            job=job,
            outcome=outcome,
            environment=environment,
            started_s=started_s,
            seconds=seconds,
        )
        store.append(record)
        known.add(record)
        notify(record)

    def wanted() -> Iterator[Job]:
        for job in plan.in_running_order(jobs):
            if reason := known.reason_to_skip(job):
                keep(job, Outcome(status="skipped", detail=reason), started_s=time.time(), seconds=0.0)
            else:
                yield job

    try:
        for event in executor.run(wanted()):
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


class _History:
    """What earlier rounds of a question have shown, so that later ones are not spent on what is known."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.closed: dict[str, str] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        outcome, question = record.outcome, record.job.question
        if outcome.status == "ok":
            if any("once" in measurement.flags for measurement in outcome.measurements):
                self.closed[question] = "measured once: a single call takes longer than the protocol's cap"
            else:
                self.closed.pop(question, None)
        elif outcome.status not in ("interrupted", "skipped", "device_lost"):
            self.closed.setdefault(question, f"round {record.job.round} ended as {outcome.status}: {outcome.detail}")

    def reason_to_skip(self, job: Job) -> str | None:
        return self.closed.get(job.question)


def find_suite(name: str) -> suite.Suite:
    """Read a suite by its name, or from a TOML file. Raises UsageError."""
    path = Path(name)
    if name.endswith(".toml"):
        return suite.read_suite(path)
    entry = registry.find(name, "suites", flag="--suite")
    return suite.read_suite(registry.resource(entry))


def cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def ask_machine(executor: Executor, device: str, *, threads: int, allocator: Allocator) -> Environment:
    """Describe this machine with one device of it. Raises UsageError where the device is not there."""
    return executor.ask(DescribeMachine(device=device, threads=threads, allocator=allocator), Environment)


def _variants(sweep: Sweep) -> tuple[Spec, ...]:
    if sweep.variants is None:
        raise UsageError("--variants: neither the suite nor a flag names any; add --variants")
    return parse_specs(sweep.variants, flag="--variants")


def _tasks(sweep: Sweep) -> tuple[Spec, ...]:
    return parse_specs(sweep.tasks, flag="--tasks") if sweep.tasks else ()


def _candidate(spec: Spec, executor: Executor) -> Candidate:
    """Complete a variant's options. One that cannot be imported is planned all the same: its rows will say why."""
    entry = registry.find(spec.name, "variants", flag="--variants")
    found = executor.ask(DescribeVariant(entry=entry, given=dict(spec.options)), Description)
    if found.mistake:
        raise UsageError(f"--variants: {spec}: {found.mistake}")
    options: dict[str, Any] = dict(spec.options) if found.failure else found.options
    return Candidate(name=entry.name, target=entry.target, origin=found.origin, options=options)


def _exam(spec: Spec, executor: Executor) -> Exam:
    entry = registry.find(spec.name, "tasks", flag="--tasks")
    found = executor.ask(DescribeTask(entry=entry, given=dict(spec.options)), TaskDescription)
    if found.mistake or found.failure or found.shape is None:
        raise UsageError(f"--tasks: {spec}: {found.mistake or found.failure}")
    return Exam(
        label=found.label,
        target=entry.target,
        origin=found.origin,
        options=found.options,
        shape=found.shape,
        mask=found.mask,
        seeds=found.seeds,
    )


def _with_todays_sources(jobs: Iterable[Job], executor: Executor) -> Iterator[Job]:
    """Give jobs the source hashes that their plugins have now, so that an edited plugin is measured again."""
    origins: dict[str, Origin] = {}

    def today(target: str, origin: Origin, *, is_task: bool) -> Origin:
        if target not in origins:
            entry = Entry(name=target, target=target, origin=origin)
            if is_task:
                origins[target] = executor.ask(DescribeTask(entry=entry), TaskDescription).origin
            else:
                origins[target] = executor.ask(DescribeVariant(entry=entry), Description).origin
        return origins[target]

    for job in jobs:
        probe = job.probe
        if probe.task_origin is not None:
            probe = msgspec.structs.replace(probe, task_origin=today(job.task_target, probe.task_origin, is_task=True))
        yield msgspec.structs.replace(job, probe=probe, origin=today(job.target, job.origin, is_task=False))


def _named_once(entries: Sequence[Entry]) -> None:
    """Refuse two different plugins whose rows would carry the same name."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        other = seen.setdefault(entry.name, entry)
        if other.target != entry.target:
            raise UsageError(
                f"--variants: {entry.name!r} is both {other.origin} ({other.target}) and {entry.origin} "
                f"({entry.target}); rename one of them"
            )


def _check_dtypes(workloads: Workloads, machine: Environment) -> None:
    for dtype in workloads.dtypes:
        if dtype not in machine.device_dtypes:
            raise UsageError(
                f"--dtype: {machine.device_name} ({machine.device}) does not compute in {dtype}; "
                f"use one of {', '.join(machine.device_dtypes)}"
            )


def _protocol(request: Request) -> MeasuringProtocol:
    base = plan.PROFILES[request.profile]
    return msgspec.structs.replace(
        base,
        rounds=request.rounds or base.rounds,
        timeout_s=request.timeout_s or base.timeout_s,
        hot=request.hot,
        threads=request.threads,
        allocator=request.allocator,
    )
