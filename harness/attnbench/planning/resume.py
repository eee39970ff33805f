"""A stored run's plan made anew before the run resumes: the plugins as they are today, the machine unchanged."""

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Environment, Job, Origin, Record
from attnbench.execute.executor import Executor
from attnbench.execute.messages import DescribeVariant
from attnbench.planning.machine import describe_machine
from attnbench.planning.metrics import describe_metric
from attnbench.planning.plugins import describe_each
from attnbench.planning.tasks import describe_task
from attnbench.plugins import sources
from attnbench.plugins.describe import Description, MetricDescription, TaskDescription
from attnbench.plugins.registry import Entry
from attnbench.store import Plan

Describe = Callable[[Executor, Entry], Description | TaskDescription | MetricDescription]

# The harness's own revision may change while a run is resumed: each record names the environment it was measured in.
_MAY_DIFFER_ON_RESUME = ("commit", "dirty")


def renew(old: Plan, executor: Executor, records: Iterable[Record]) -> tuple[Plan, Environment]:
    """Return a stored run's plan with the sources that its plugins have today, and today's environment.

    A plugin that cannot be described today, or whose records have read files that differ today, has a new origin too.

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
    executor.import_timeout_s = max(job.protocol.timeout_s for job in old.jobs)
    timed = old.search.timed if old.search else ()
    today = _Today(executor, records)
    today.ask_variants((*old.jobs, *timed))
    search = old.search and replace(old.search, timed=tuple(map(today.job, timed)))
    return old.with_jobs(map(today.job, old.jobs), search=search), now


class _Today:
    """The origins that plugins have today, each asked once."""

    def __init__(self, executor: Executor, records: Iterable[Record]) -> None:
        self._executor = executor
        self._read: dict[Origin, dict[str, str]] = {}  # files that records have read after the imports
        self._origins: dict[tuple[str, Origin], Origin] = {}
        for record in records:
            self._read.setdefault(record.job.origin, {}).update(record.outcome.sources)

    def job(self, job: Job) -> Job:
        """Return a job as it is planned today."""
        probe = job.probe
        if probe.task_origin is not None:
            probe = replace(probe, task_origin=self._origin(describe_task, job.task_target, probe.task_origin))
        if probe.metric_origin is not None:
            probe = replace(probe, metric_origin=self._origin(describe_metric, job.metric_target, probe.metric_origin))
        return replace(job, probe=probe, origin=self._origins[job.target, job.origin])

    def ask_variants(self, jobs: Iterable[Job]) -> None:
        """Describe the variants of jobs side by side."""
        known = tuple(dict.fromkeys((job.target, job.origin) for job in jobs))
        questions = [DescribeVariant(entry=_entry(*each)) for each in known]
        for each, description in zip(known, describe_each(self._executor, questions, Description), strict=True):
            self._origins[each] = self._renewed(each[1], description.origin)

    def _origin(self, describe: Describe, target: str, origin: Origin) -> Origin:
        if (target, origin) not in self._origins:
            today = describe(self._executor, _entry(target, origin)).origin
            self._origins[target, origin] = self._renewed(origin, today)
        return self._origins[target, origin]

    def _renewed(self, origin: Origin, today: Origin) -> Origin:
        """Return the origin as it is described today, another one where what records have read late differs today."""
        read = self._read.get(origin, {})
        now = {path: sources.hash_file(path) for path in read}
        if today == origin and now == read:
            sources.differing(read, self._executor.sources)
            return origin
        text = "".join(f"{path}\0{content}\0" for path, content in sorted(now.items()))
        return replace(today, later_hash=sources.hash_text(text) if now else "")


def _entry(target: str, origin: Origin) -> Entry:
    return Entry(name=target, target=target, origin=origin)
