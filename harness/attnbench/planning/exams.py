"""The tasks of a sweep, asked of children: each once for every value of the ranges in its options."""

import math
from collections.abc import Iterator, Mapping
from itertools import product

from attnbench.contracts.errors import UsageError
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.contracts.suite import Sweep
from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.messages import DescribeTask
from attnbench.planning.plan import Exam
from attnbench.plugins import registry
from attnbench.plugins.describe import TaskDescription
from attnbench.plugins.registry import Entry

_MOST = 1000


def asked_tasks(sweep: Sweep) -> tuple[Spec, ...]:
    """Read the tasks of a sweep; values may be ranges. Raises UsageError."""
    return () if sweep.tasks is None else parse_specs(sweep.tasks, flag="--tasks", ranges=True)


def plan_exams(sweep: Sweep, executor: Executor) -> Iterator[Exam]:
    """Give every task of a sweep, ready to be planned. Raises UsageError naming the task and the fix."""
    return (_exam(each, executor) for spec in asked_tasks(sweep) for each in _swept(spec, executor))


def describe_task(executor: Executor, entry: Entry, given: Mapping[str, object] | None = None) -> TaskDescription:
    """Ask a child what a task is; one whose import ends the child is described by how it ended."""
    try:
        return executor.ask(DescribeTask(entry=entry, given=dict(given or {})), TaskDescription)
    except NoAnswer as end:
        return TaskDescription(origin=entry.origin, failure=f"its import {end}")


def _swept(spec: Spec, executor: Executor) -> Iterator[Spec]:
    """Give a task once for each value of its whole-number options that are given as ranges."""
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
