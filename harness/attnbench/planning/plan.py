"""The plan of a run: a request that is checked, then resolved on its machine, with its plugins as they are."""

import time
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import DRAWN, Case
from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import QUALITIES, TRAINED, ProbeKind
from attnbench.contracts.record import Environment, Job
from attnbench.contracts.specs import Spec
from attnbench.contracts.suite import Sweep
from attnbench.execute.executor import Executor
from attnbench.planning.inputs import refuse_what_captures_fix, shipped, swept_cases, usual_cases
from attnbench.planning.jobs import Conditions, plan_jobs
from attnbench.planning.machine import describe_machine, spare_bytes
from attnbench.planning.metrics import PlannedMetric, needed_probes, planned_metrics, probes_of
from attnbench.planning.request import Request
from attnbench.planning.suites import apply_flags, find_suite
from attnbench.planning.swaps import check_model, parse_swap, planned_model
from attnbench.planning.tasks import PlannedTask, planned_tasks, task_specs
from attnbench.planning.variants import Candidate, candidate, candidates, check_names, variant_specs
from attnbench.plugins import registry
from attnbench.plugins.empty import FLOOR, WORST
from attnbench.store import Fit, Plan, new_run_id

_REFINED = 3  # times that lengths are added around crossings

# Turns a sweep, and the flags given for it, into the lengths that a search begins with; Request.fit asks for it.
Narrow = Callable[[Sweep, Sweep], tuple[Sweep, Fit]]


class Resolved(Struct, frozen=True, kw_only=True):
    """A request resolved on its machine: all that jobs are planned from."""

    machine: Environment
    sweep: Sweep
    fit: Fit | None
    cases: tuple[Case, ...]
    compared: tuple[Case, ...]
    probes: tuple[ProbeKind, ...]
    candidates: tuple[Candidate, ...]
    tasks: tuple[PlannedTask, ...]
    metrics: tuple[PlannedMetric, ...]
    conditions: Conditions

    def jobs(self) -> tuple[Job, ...]:
        """Return all jobs, in order. Raises UsageError where there is nothing to measure."""
        return plan_jobs(
            self.cases,
            self.probes,
            candidates=self.candidates,
            tasks=self.tasks,
            metrics=self.metrics,
            conditions=self.conditions,
            compared=self.compared,
        )


def check(request: Request, *, narrow: Narrow | None = None) -> None:
    """Check what can be checked without starting a process. Raises UsageError."""
    request.check()
    refuse_what_captures_fix(request.sweep)
    sweep, _ = _sweep(request, "cpu", narrow)
    parse_swap(sweep.swap)
    check_model(sweep)
    trained = [kind for kind in probes_of(sweep) if kind in TRAINED]
    if sweep.model is not None and "swap" in trained:
        trained.remove("swap")
    if trained and sweep.tasks is None:
        raise UsageError(
            f"--tasks: {trained[0]} is measured on a task; name one, or leave {trained[0]} out of --metrics"
        )
    check_names(variant_specs(sweep))
    for spec in task_specs(sweep):
        registry.find(spec.name, "tasks", flag="--tasks")


def prepare(request: Request, executor: Executor, *, narrow: Narrow | None = None) -> Plan:
    """Return the plan of a new run. Raises UsageError; writes nothing."""
    resolved = resolve(request, executor, narrow=narrow)
    return plan_run(request, resolved, resolved.jobs())


def resolve(request: Request, executor: Executor, *, narrow: Narrow | None = None) -> Resolved:
    """Ask children what the machine and the plugins are. Raises UsageError, before any process starts where it can."""
    check(request, narrow=narrow)
    executor.import_timeout_s = request.protocol.timeout_s
    machine = describe_machine(executor, request.device, threads=request.threads, allocator=request.allocator)
    sweep, fit = _sweep(request, machine.device, narrow)
    swept, captures = swept_cases(sweep)
    metrics = planned_metrics(sweep, executor)
    probes = tuple(dict.fromkeys((*probes_of(sweep), *needed_probes(metrics))))
    compared = swept
    if sweep.inputs is None and "agreement" in probes:
        compared, captures = usual_cases(swept), shipped()
    for dtype in dict.fromkeys(case.dtype for case in swept):
        if dtype not in machine.device_dtypes:
            raise UsageError(
                f"--dtype: {machine.device_name} ({machine.device}) does not compute in {dtype}; "
                f"use one of {', '.join(machine.device_dtypes)}"
            )
    conditions = Conditions(
        device=machine.device,
        protocol=request.protocol,
        floor=candidate(Spec(name=FLOOR), executor),
        seed=request.seed,
        swap=parse_swap(sweep.swap),
        model=planned_model(sweep, executor) if "swap" in probes else None,
        worst=_worst(executor) if {"agreement", "swap"} & {*probes} else None,
        paths={capture.name: str(capture.path) for capture in captures},
        costed=_costed(swept, probes) if sweep.scale is not False else 0,
    )
    return Resolved(
        machine=machine,
        sweep=sweep,
        fit=fit,
        cases=swept,
        compared=compared,
        probes=probes,
        candidates=_refuse_searches_by_length(request, candidates(sweep, executor, request.roles)),
        tasks=planned_tasks(sweep, executor) if any(kind in TRAINED for kind in probes) else (),
        metrics=metrics,
        conditions=conditions,
    )


def _worst(executor: Executor) -> Candidate | None:
    """Return the floor of every quality, or None where no installed package has it."""
    return candidate(Spec(name=WORST), executor) if WORST in registry.entries("variants") else None


def _refuse_searches_by_length(request: Request, planned: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Raise UsageError for a search over lengths with options that follow the length: each would be another variant."""
    for one in planned:
        for flag, asked in (("--refine", request.refine), ("--fit", request.fit)):
            if asked and one.by_length:
                name = next(iter(one.by_length))
                raise UsageError(
                    f"{flag}: {one.name}:{name} follows the length; give {name} a number, or leave {flag} out"
                )
    return planned


def _costed(swept: Iterable[Case], probes: Iterable[ProbeKind]) -> int:
    """Return the longest sequence whose cost is measured, 0 where there is none."""
    costs = any(probe not in QUALITIES for probe in probes)
    return max((case.shape.seq_k for case in swept), default=0) if costs else 0


def plan_run(request: Request, resolved: Resolved, jobs: tuple[Job, ...]) -> Plan:
    """Return the plan of a new run of these jobs."""
    created_s = time.time()
    allowed_bytes = request.memory_bytes or spare_bytes(resolved.machine)
    return Plan.of(
        jobs,
        run=new_run_id(created_s),
        created_s=created_s,
        command=request.command,
        sweep=msgspec.to_builtins(resolved.sweep),
        environment=resolved.machine,
        prune=request.prune,
        budget_s=request.budget_s,
        refine=_REFINED if request.refine else 0,
        fit=resolved.fit and replace(resolved.fit, allowed_bytes=allowed_bytes),
        memory_bytes=request.memory_bytes,
    )


def _sweep(request: Request, device: str, narrow: Narrow | None) -> tuple[Sweep, Fit | None]:
    """Return what is swept on a device, and the search that it begins.

    Raises UsageError for anything wrong in it; a mistake in what the suite gives names the suite's field.
    """
    suite = find_suite(request.suite).for_device(device)
    try:
        sweep, fit = apply_flags(suite, request.sweep), None
        _refuse_searches_on_captures(request, sweep)
        if request.fit:
            assert narrow is not None, "a search for the longest context begins with lengths of its own"
            sweep, fit = narrow(sweep, request.sweep)
        swept_cases(sweep)
        probes_of(sweep)
    except UsageError as mistake:
        flag, _, rest = str(mistake).partition(":")
        field = flag.removeprefix("--").replace("-", "_")
        if field not in suite.given - request.sweep.given:
            raise
        raise UsageError(f"--suite: {request.suite!r}: {field}:{rest}") from None
    return sweep, fit


def _refuse_searches_on_captures(request: Request, sweep: Sweep) -> None:
    """Raise UsageError for a search over lengths on captured inputs: every length would be the same case."""
    for flag, asked in (("--refine", request.refine), ("--fit", request.fit)):
        if asked and any(word.strip() not in DRAWN for word in (sweep.inputs or DRAWN[0]).split(",")):
            raise UsageError(f"{flag}: captured inputs have one length; leave {flag} out, or draw the inputs")
