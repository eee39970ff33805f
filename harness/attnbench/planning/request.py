"""From what was asked to a plan: mistakes are found, the machine and the plugins are asked what they are."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from attnbench.contracts import suite
from attnbench.contracts.case import digest
from attnbench.contracts.errors import UsageError, is_text, suggestion
from attnbench.contracts.ranges import parse_bytes, parse_duration
from attnbench.contracts.record import ALLOCATORS, Allocator, Environment, Job, Profile, Protocol
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.contracts.suite import Sweep
from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.limits import available_bytes
from attnbench.execute.messages import DescribeMachine, DescribeVariant
from attnbench.planning import cells, plan
from attnbench.planning.exams import asked_tasks, plan_exams
from attnbench.planning.plan import Candidate, Exam, Setting, Workloads
from attnbench.plugins import registry
from attnbench.plugins.describe import Description
from attnbench.plugins.empty import FLOOR
from attnbench.plugins.registry import Entry
from attnbench.store import Fit, Plan, new_run_id

_REFINED = 3  # times that lengths are added around crossings
_LONGEST_TIMEOUT_S = 30 * 86_400
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
    fit: bool = False
    memory: str | None = None
    command: tuple[str, ...] = ()


# Turns a sweep, and what was asked of it, into the lengths that a search begins with; Request.fit asks for it.
Narrow = Callable[[Sweep, Sweep], tuple[Sweep, Fit]]


def check(request: Request, *, narrow: Narrow | None = None) -> None:
    """Check what can be checked without starting a process. Raises UsageError."""
    _check_settings(request)
    sweep, workloads, _ = _read(request, "cpu", narrow)
    if "accuracy" in workloads.metrics and sweep.tasks is None:
        raise UsageError("--tasks: accuracy is measured on a task; name one, or leave accuracy out of --metrics")
    _named_once([registry.find(spec.name, "variants", flag="--variants") for spec in _variants(sweep)])
    for spec in asked_tasks(sweep):
        registry.find(spec.name, "tasks", flag="--tasks")


class Answered(Struct, frozen=True, kw_only=True):
    """What the machine and the plugins said of a request: all that a plan is made of."""

    machine: Environment
    sweep: Sweep
    workloads: Workloads
    candidates: tuple[Candidate, ...]
    exams: tuple[Exam, ...]
    setting: Setting
    fit: Fit | None


def prepare(request: Request, executor: Executor, *, narrow: Narrow | None = None) -> Plan:
    """Plan a run, with the machine and the plugins as they describe themselves. Raises UsageError; writes nothing."""
    found = ask(request, executor, narrow=narrow)
    return planned(request, found, plan.plan_jobs(found.workloads, found.candidates, found.exams, found.setting))


def planned(request: Request, found: Answered, jobs: tuple[Job, ...]) -> Plan:
    """Make the plan of a new run of these jobs."""
    created_s, memory_bytes = time.time(), _memory_bytes(request)
    allowed_bytes = memory_bytes or _spare_bytes(found.machine)
    return Plan.of(
        jobs,
        run=new_run_id(created_s),
        created_s=created_s,
        command=request.command,
        sweep=msgspec.to_builtins(found.sweep),
        environment=found.machine,
        prune=request.prune,
        budget_s=_budget_s(request),
        refine=_REFINED if request.refine else 0,
        fit=found.fit and msgspec.structs.replace(found.fit, allowed_bytes=allowed_bytes),
        memory_bytes=memory_bytes,
    )


def ask(request: Request, executor: Executor, *, narrow: Narrow | None = None) -> Answered:
    """Ask the machine and the plugins what they are. Raises UsageError, before a process starts where it can."""
    check(request, narrow=narrow)
    machine = ask_machine(executor, request.device, threads=request.threads, allocator=request.allocator)
    sweep, workloads, fit = _read(request, machine.device, narrow)
    _check_dtypes(workloads, machine)
    candidates = list({digest(one): one for one in (candidate(spec, executor) for spec in _variants(sweep))}.values())
    exams = plan_exams(sweep, executor) if "accuracy" in workloads.metrics else ()
    setting = Setting(
        device=machine.device,
        protocol=_protocol(request),
        floor=candidate(Spec(name=FLOOR), executor),
        seed=request.seed,
    )
    return Answered(
        machine=machine,
        sweep=sweep,
        workloads=workloads,
        candidates=tuple(candidates),
        exams=tuple(exams),
        setting=setting,
        fit=fit,
    )


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


def _spare_bytes(machine: Environment) -> int | None:
    """Tell what a job may take where nobody bounds it: a GPU's memory, or what the machine has to spare now."""
    return machine.device_memory_bytes if machine.device.startswith("cuda") else available_bytes()


def _read(request: Request, device: str, narrow: Narrow | None) -> tuple[Sweep, Workloads, Fit | None]:
    """Read what is asked for on a device. A mistake in what the suite gives is told as one of the suite's fields.

    Of a search for the longest context, the first lengths are what is swept.
    """
    found = find_suite(request.suite).for_device(device)
    try:
        sweep, fit = cells.asked(found, request.sweep), None
        if request.fit:
            assert narrow is not None, "a search for the longest context begins with lengths of its own"
            sweep, fit = narrow(sweep, request.sweep)
        return sweep, plan.read_sweep(sweep), fit
    except UsageError as mistake:
        flag, _, rest = str(mistake).partition(":")
        field = flag.removeprefix("--").replace("-", "_")
        if field not in found.given - request.sweep.given:
            raise
        raise UsageError(f"--suite: {request.suite!r}: {field}:{rest}") from None


def candidate(spec: Spec, executor: Executor, *, flag: str = "--variants") -> Candidate:
    """Complete a variant's options. One that cannot be imported is planned all the same: its rows will say why.

    Raises UsageError, naming the flag, for a name or an option that there is not.
    """
    entry = registry.find(spec.name, "variants", flag=flag)
    found = describe_variant(executor, entry, spec.options)
    if found.mistake:
        raise UsageError(f"{flag}: {spec}: {found.mistake}")
    options: dict[str, Any] = dict(spec.options) if found.failure else found.options
    return Candidate(name=entry.name, target=entry.target, origin=found.origin, options=options, tunes=found.tunes)


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


def _memory_bytes(request: Request) -> int | None:
    return None if request.memory is None else parse_bytes(request.memory, flag="--memory")


def _check_settings(request: Request) -> None:
    _budget_s(request)
    _memory_bytes(request)
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
