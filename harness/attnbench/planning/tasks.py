"""The tasks of a sweep, with complete options: one for every value of the ranges in them, each described by a child."""

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import Mask, Shape
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.record import Origin
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.contracts.suite import Sweep
from attnbench.execute.executor import Executor
from attnbench.execute.messages import DescribeTask
from attnbench.planning.plugins import describe
from attnbench.plugins import registry
from attnbench.plugins.describe import TaskDescription
from attnbench.plugins.registry import Entry

_MOST = 1000
_MATCHES = ("parameters", "state")


class PlannedTask(Struct, frozen=True, kw_only=True):
    """A task with complete options, ready to be planned; it determines the shape and mask of the trained model."""

    name: str
    label: str
    target: str
    origin: Origin
    options: dict[str, Any]
    shape: Shape
    mask: Mask
    seeds: int


def task_specs(sweep: Sweep) -> tuple[Spec, ...]:
    """Return the tasks that a sweep names, with what --match asks of each; values may be ranges. Raises UsageError."""
    match = sweep.match
    if match is not None and match not in _MATCHES:
        raise UsageError(f"--match: {match!r} is not one of {', '.join(_MATCHES)}; {suggestion(match, _MATCHES)}")
    named = () if sweep.tasks is None else parse_specs(sweep.tasks, flag="--tasks", ranges=True)
    if match is None:
        return named
    return tuple(replace(spec, options={"match": match, **spec.options}) for spec in named)


def planned_tasks(sweep: Sweep, executor: Executor) -> tuple[PlannedTask, ...]:
    """Return every task of a sweep with complete options. Raises UsageError naming the task and the fix."""
    return tuple(_planned(each, executor) for spec in task_specs(sweep) for each in _swept(spec, executor))


def describe_task(executor: Executor, entry: Entry, given: Mapping[str, object] | None = None) -> TaskDescription:
    """Return a child's description of a task; where the import ends the child, the description says how."""
    return describe(executor, DescribeTask(entry=entry, given=dict(given or {})), TaskDescription)


def _swept(spec: Spec, executor: Executor) -> Iterator[Spec]:
    """Yield a task for every combination of values of the whole-number options that are given as ranges."""
    ranges = {name: text for name, text in spec.options.items() if text[:1].isdigit() and not text.isdigit()}
    if ranges:
        fields = describe_task(executor, registry.find(spec.name, "tasks", flag="--tasks")).fields
        whole = {field.name for field in fields if "int" in field.type.split("|")}
        ranges = {name: text for name, text in ranges.items() if name in whole}
    values = [parse_range(text, flag=f"--tasks: {spec.name}:{name}", zero=True) for name, text in ranges.items()]
    if math.prod(map(len, values)) > _MOST:
        raise UsageError(f"--tasks: {spec}: its ranges make more than {_MOST} tasks; narrow one")
    for numbers in product(*values):
        yield Spec(name=spec.name, options={**spec.options, **dict(zip(ranges, map(str, numbers), strict=True))})


def _planned(spec: Spec, executor: Executor) -> PlannedTask:
    entry = registry.find(spec.name, "tasks", flag="--tasks")
    description = describe_task(executor, entry, spec.options)
    if description.mistake or description.failure or description.shape is None:
        raise UsageError(f"--tasks: {spec}: {description.mistake or description.failure}")
    return PlannedTask(
        name=entry.name,
        label=description.label,
        target=entry.target,
        origin=description.origin,
        options=description.options,
        shape=description.shape,
        mask=description.mask,
        seeds=description.seeds,
    )
