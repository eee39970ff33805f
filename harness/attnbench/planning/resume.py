"""A stored run's plan made anew before the run resumes: the plugins as they are today, the machine unchanged."""

from collections.abc import Callable, Iterable, Iterator

from msgspec.structs import replace

from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Environment, Job, Origin
from attnbench.execute.executor import Executor
from attnbench.planning.machine import describe_machine
from attnbench.planning.metrics import describe_metric
from attnbench.planning.tasks import describe_task
from attnbench.planning.variants import describe_variant
from attnbench.plugins.describe import Description, MetricDescription, TaskDescription
from attnbench.plugins.registry import Entry
from attnbench.store import Plan

Describe = Callable[[Executor, Entry], Description | TaskDescription | MetricDescription]

# The harness's own revision may change while a run is resumed: each record names the environment it was measured in.
_MAY_DIFFER_ON_RESUME = ("commit", "dirty")


def renew(old: Plan, executor: Executor) -> tuple[Plan, Environment]:
    """Return a stored run's plan with the sources that its plugins have today, and today's environment.

    Raises UsageError, naming what changed, where the machine or its software is not what it was.
    """
    was = old.environment
    now = describe_machine(executor, was.device, threads=was.threads, allocator=was.allocator)
    for field in Environment.__struct_fields__:
        if field not in _MAY_DIFFER_ON_RESUME and getattr(was, field) != getattr(now, field):
            raise UsageError(
                f"--resume: {field.replace('_', ' ')} was {getattr(was, field)!r} and is {getattr(now, field)!r}; "
                "numbers of both would not be comparable, so start a new run"
            )
    jobs = _with_todays_sources(old.jobs, executor)
    search = old.search and replace(old.search, timed=tuple(_with_todays_sources(old.search.timed, executor)))
    return old.with_jobs(jobs, search=search), now


def _with_todays_sources(jobs: Iterable[Job], executor: Executor) -> Iterator[Job]:
    """Yield jobs with the source hashes that their plugins have now, so that an edited plugin is measured again."""
    origins: dict[str, Origin] = {}

    def today(describe: Describe, target: str, origin: Origin) -> Origin:
        if target not in origins:
            origins[target] = describe(executor, Entry(name=target, target=target, origin=origin)).origin
        return origins[target]

    for job in jobs:
        probe = job.probe
        if probe.task_origin is not None:
            probe = replace(probe, task_origin=today(describe_task, job.task_target, probe.task_origin))
        if probe.metric_origin is not None:
            probe = replace(probe, metric_origin=today(describe_metric, job.metric_target, probe.metric_origin))
        yield replace(job, probe=probe, origin=today(describe_variant, job.target, job.origin))
