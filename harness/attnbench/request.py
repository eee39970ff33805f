"""From what was asked to a plan: mistakes are found, the machine and the plugins are asked what they are."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from attnbench import cells, plan, registry, suite
from attnbench.case import digest
from attnbench.describe import Description, TaskDescription
from attnbench.empty import FLOOR
from attnbench.errors import UsageError, is_text, suggestion
from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.messages import DescribeMachine, DescribeTask, DescribeVariant
from attnbench.plan import Candidate, Exam, Setting, Workloads
from attnbench.ranges import parse_duration, parse_range
from attnbench.record import ALLOCATORS, Allocator, Environment, Job, Origin, Profile, Protocol
from attnbench.registry import Entry
from attnbench.specs import Spec, parse_specs
from attnbench.store import Plan, new_run_id
from attnbench.suite import Sweep

_MOST_EXAMS = 1000
_REFINED = 3  # times that lengths are added around crossings
_LONGEST_TIMEOUT_S = 30 * 86_400
# The harness's own revision may change while a run is resumed: each record names the environment it was measured in.
_MAY_DIFFER_ON_RESUME = ("commit", "dirty")
_ALL = Spec(name="all")  # in place of a variant's name: every installed one that is not named beside it


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
    prune: bool = True
    time_budget: str | None = None
    refine: bool = False
    command: tuple[str, ...] = ()


def check(request: Request) -> None:
    """Find the mistakes that can be found without starting a process. Raises UsageError."""
    _check_settings(request)
    sweep, workloads = _read(request, "cpu")
    if "accuracy" in workloads.metrics and sweep.tasks is None:
        raise UsageError("--tasks: accuracy is measured on a task; name one, or leave accuracy out of --metrics")
    _named_once([registry.find(spec.name, "variants", flag="--variants") for spec in _variants(sweep)])
    for spec in _tasks(sweep):
        registry.find(spec.name, "tasks", flag="--tasks")


def prepare(request: Request, executor: Executor) -> Plan:
    """Ask the machine and the plugins what they are, and plan the run. Raises UsageError; writes nothing."""
    machine = ask_machine(executor, request.device, threads=request.threads, allocator=request.allocator)
    sweep, workloads = _read(request, machine.device)
    _check_dtypes(workloads, machine)
    candidates = list({digest(one): one for one in (_candidate(spec, executor) for spec in _variants(sweep))}.values())
    asked = _tasks(sweep) if "accuracy" in workloads.metrics else ()
    exams = [_exam(each, executor) for spec in asked for each in _swept(spec, executor)]
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
        prune=request.prune,
        budget_s=_budget_s(request),
        refine=_REFINED if request.refine else 0,
    )


def renew(old: Plan, executor: Executor) -> tuple[Plan, Environment]:
    """Plan a stored run anew: the same jobs with the sources that its plugins have today, and today's environment.

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
    return msgspec.structs.replace(old, jobs=tuple(_with_todays_sources(old.jobs, executor))), now


def find_suite(name: str) -> suite.Suite:
    """Read a suite by its name, or from a TOML file. Raises UsageError."""
    path = Path(name)
    if name.endswith(".toml"):
        return suite.read_suite(path)
    entry = registry.find(name, "suites", flag="--suite")
    return suite.read_suite(registry.resource(entry))


def ask_machine(executor: Executor, device: str, *, threads: int, allocator: Allocator) -> Environment:
    """Describe this machine with one device of it. Raises UsageError where the device is not there."""
    return executor.ask(DescribeMachine(device=device, threads=threads, allocator=allocator), Environment)


def describe_variant(executor: Executor, entry: Entry, given: Mapping[str, object] | None = None) -> Description:
    """Ask a child what a variant is; one whose import ends the child is described by how it ended."""
    try:
        return executor.ask(DescribeVariant(entry=entry, given=dict(given or {})), Description)
    except NoAnswer as end:
        return Description(origin=entry.origin, failure=f"its import {end}")


def describe_task(executor: Executor, entry: Entry, given: Mapping[str, object] | None = None) -> TaskDescription:
    """Ask a child what a task is, likewise."""
    try:
        return executor.ask(DescribeTask(entry=entry, given=dict(given or {})), TaskDescription)
    except NoAnswer as end:
        return TaskDescription(origin=entry.origin, failure=f"its import {end}")


def _read(request: Request, device: str) -> tuple[Sweep, Workloads]:
    """Read what is asked for on a device. A mistake in what the suite gives is told as one of the suite's fields."""
    found = find_suite(request.suite).for_device(device)
    try:
        sweep = cells.asked(found, request.sweep)
        return sweep, plan.read_sweep(sweep)
    except UsageError as mistake:
        flag, _, rest = str(mistake).partition(":")
        field = flag.removeprefix("--").replace("-", "_")
        if field not in found.given - request.sweep.given:
            raise
        raise UsageError(f"--suite: {request.suite!r}: {field}:{rest}") from None


def _variants(sweep: Sweep) -> tuple[Spec, ...]:
    if sweep.variants is None:
        raise UsageError("--variants: neither the suite nor a flag names any; add --variants")
    named = parse_specs(sweep.variants, flag="--variants")
    if any(spec.name == _ALL.name and spec.options for spec in named):
        raise UsageError("--variants: all takes no options; name the variants that do beside it: all,NAME:option=value")
    if _ALL not in named:
        return named
    given = {spec.name for spec in named}
    others = (Spec(name=name) for name in registry.entries("variants") if name != FLOOR and name not in given)
    return *(spec for spec in named if spec != _ALL), *others


def _tasks(sweep: Sweep) -> tuple[Spec, ...]:
    return () if sweep.tasks is None else parse_specs(sweep.tasks, flag="--tasks", ranges=True)


def _candidate(spec: Spec, executor: Executor) -> Candidate:
    """Complete a variant's options. One that cannot be imported is planned all the same: its rows will say why."""
    entry = registry.find(spec.name, "variants", flag="--variants")
    found = describe_variant(executor, entry, spec.options)
    if found.mistake:
        raise UsageError(f"--variants: {spec}: {found.mistake}")
    options: dict[str, Any] = dict(spec.options) if found.failure else found.options
    return Candidate(name=entry.name, target=entry.target, origin=found.origin, options=options)


def _swept(spec: Spec, executor: Executor) -> Iterator[Spec]:
    """Give a task once for each value of its whole-number options that are given as ranges."""
    ranges = {name: text for name, text in spec.options.items() if text[:1].isdigit() and not text.isdigit()}
    if ranges:
        entry = registry.find(spec.name, "tasks", flag="--tasks")
        fields = describe_task(executor, entry).fields
        whole = {field.name for field in fields if "int" in field.type.split("|")}
        ranges = {name: text for name, text in ranges.items() if name in whole}
    values = [parse_range(text, flag=f"--tasks: {spec.name}:{name}") for name, text in ranges.items()]
    if math.prod(map(len, values)) > _MOST_EXAMS:
        raise UsageError(f"--tasks: {spec}: its ranges make more than {_MOST_EXAMS} tasks; narrow one")
    for numbers in product(*values):
        yield Spec(name=spec.name, options={**spec.options, **dict(zip(ranges, map(str, numbers), strict=True))})


def _exam(spec: Spec, executor: Executor) -> Exam:
    entry = registry.find(spec.name, "tasks", flag="--tasks")
    found = describe_task(executor, entry, spec.options)
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
            origins[target] = (describe_task if is_task else describe_variant)(executor, entry).origin
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


def _protocol(request: Request) -> Protocol:
    base = plan.PROFILES[request.profile]
    # What a budget leaves goes to lengths in between where those are asked for, else to further rounds.
    extends = request.time_budget is not None and not request.refine
    most = max(base.rounds, plan.MOST_ROUNDS) if extends else base.rounds
    return msgspec.structs.replace(
        base,
        rounds=request.rounds or most,
        timeout_s=request.timeout_s or base.timeout_s,
        hot=request.hot,
        threads=request.threads,
        allocator=request.allocator,
    )


def _budget_s(request: Request) -> float | None:
    return None if request.time_budget is None else parse_duration(request.time_budget, flag="--time-budget")


def _check_settings(request: Request) -> None:
    _budget_s(request)
    _one_of(request.profile, plan.PROFILES, flag="--profile")
    _one_of(request.allocator, ALLOCATORS, flag="--allocator")
    for flag, value in (("--threads", request.threads), ("--rounds", request.rounds), ("--timeout", request.timeout_s)):
        if value is not None and not value >= 1:
            raise UsageError(f"{flag}: {value} is less than 1; give 1 or more")
    if request.timeout_s is not None and not (
        math.isfinite(request.timeout_s) and request.timeout_s <= _LONGEST_TIMEOUT_S
    ):
        raise UsageError(f"--timeout: {request.timeout_s:g} seconds is longer than a month; give less")
    if not 0 <= request.seed < 2**63:
        raise UsageError(f"--seed: {request.seed} is not between 0 and 2^63; give another")
    if not is_text(request.device):
        raise UsageError(f"--device: {request.device!r} is not a device; write auto, cpu, cuda, cuda:1 or mps")


def _one_of(value: str, known: Iterable[str], *, flag: str) -> None:
    if value not in known:
        raise UsageError(f"{flag}: {value!r} is not one of {', '.join(known)}; {suggestion(value, known)}")
