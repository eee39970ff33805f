"""What it takes to measure a run again: the command, the code, the protocol, and the machines it ran on."""

import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from attnbench.contracts.record import Environment, Job, Origin
from attnbench.contracts.text import option_text, with_options
from attnbench.store import Plan

Section = dict[str, Any]


def reproduction(plan: Plan, environments: Mapping[str, Environment]) -> dict[str, Any]:
    """Return what a repetition needs, as JSON values: every field, defaults included."""
    return {
        "run": plan.run,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(plan.created_s)),
        "command": shlex.join(("attnbench", *plan.command) if plan.command[:1] == ("run",) else plan.command),
        "sweep": plan.sweep,
        "jobs": len(plan.jobs),
        "seeds": sorted({job.case.seed for job in plan.jobs}),
        "prune": plan.prune,
        "time_budget_s": plan.budget_s,
        "protocols": [_fields(protocol) for protocol in _distinct(job.protocol for job in plan.jobs)],
        "variants": [_plugin(_typed(job), job.target, job.origin) for job in _first_by(plan.jobs, _typed)],
        "tasks": [
            _plugin(job.probe.task, job.task_target, job.probe.task_origin or Origin())
            for job in _first_by(plan.jobs, lambda job: job.probe.task)
            if job.probe.task
        ],
        "environments": [_fields(machine) for machine in _distinct([plan.environment, *environments.values()])],
    }


def sections(whole: dict[str, Any]) -> Iterable[Section]:
    """Return the facts in sections: the run, each protocol, the plugins, each environment."""
    lists = ("protocols", "variants", "tasks", "environments")
    yield {"": f"run {whole['run']}"} | {name: value for name, value in whole.items() if name not in ("run", *lists)}
    for protocol in whole["protocols"]:
        yield {"": "protocol"} | protocol
    for kind in ("variants", "tasks"):
        if whole[kind]:
            plugins = [f"{plugin['name']} ({plugin['origin']}, source {plugin['source']})" for plugin in whole[kind]]
            yield {"": kind, "measured": plugins}
    for environment in whole["environments"]:
        yield {"": "environment"} | environment


def _plugin(name: str, target: str, origin: Origin) -> Section:
    return {"name": name, "target": target, "origin": str(origin), "source": origin.sources}


def _typed(job: Job) -> str:
    """Return a job's variant as it is typed."""
    options = {name: option_text(value) for name, value in job.case.options.items()}
    return with_options(job.case.variant, options, keys=options)


def _first_by(jobs: Iterable[Job], name: Callable[[Job], str]) -> Iterable[Job]:
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(name(job), job)
    return first.values()


def _distinct(values: Iterable[Struct]) -> Iterable[Struct]:
    return {msgspec.json.encode(value): value for value in values}.values()


def _fields(value: Struct) -> Section:
    """Return every field of a struct, also those that encoding would omit at their default."""
    fields: Section = msgspec.to_builtins(msgspec.structs.asdict(value))
    return fields
