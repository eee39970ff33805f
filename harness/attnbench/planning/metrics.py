"""The metrics of a sweep: the probes that measure the harness's own, and what plugins declare of theirs."""

from collections.abc import Iterable

from msgspec import Struct

from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.metrics import METRICS, PRIMARY, Metric, ProbeKind
from attnbench.contracts.record import Origin
from attnbench.contracts.suite import Sweep
from attnbench.execute.executor import Executor
from attnbench.execute.messages import DescribeMetric
from attnbench.planning.plugins import describe
from attnbench.plugins import registry
from attnbench.plugins.describe import MetricDescription
from attnbench.plugins.registry import Entry

_FLAG = "--metrics"
_DEFAULT = "latency"


class PlannedMetric(Struct, frozen=True, kw_only=True):
    """A plugin's metric, ready to be planned."""

    declared: Metric
    target: str
    origin: Origin


def probes_of(sweep: Sweep) -> tuple[ProbeKind, ...]:
    """Return the probes whose metrics a sweep names, in the order of the table of metrics. Raises UsageError."""
    words = _words(sweep)
    plugin_metrics(sweep)
    return tuple(kind for kind in PRIMARY if kind in words)


def plugin_metrics(sweep: Sweep) -> tuple[Entry, ...]:
    """Return the plugins whose metrics a sweep names. Raises UsageError for a name that is neither."""
    entries = [_entry(word) for word in _words(sweep) if word not in PRIMARY]
    for entry in entries:
        if entry.name in METRICS or sum(entry.name == other.name for other in entries) > 1:
            raise UsageError(f"{_FLAG}: there would be two metrics called {entry.name!r}; rename the plugin's")
    return tuple(entries)


def planned_metrics(sweep: Sweep, executor: Executor) -> tuple[PlannedMetric, ...]:
    """Return what plugins declare of the metrics that a sweep names. Raises UsageError."""
    return tuple(_planned(entry, executor) for entry in plugin_metrics(sweep))


def needed_probes(metrics: Iterable[PlannedMetric]) -> tuple[ProbeKind, ...]:
    """Return the probes that measure what metrics are derived from."""
    return tuple({METRICS[name].probe: None for metric in metrics for name in metric.declared.needs})


def describe_metric(executor: Executor, entry: Entry) -> MetricDescription:
    """Return a child's description of a metric; where the import ends the child, the description says how."""
    return describe(executor, DescribeMetric(entry=entry), MetricDescription)


def _words(sweep: Sweep) -> dict[str, None]:
    text = _DEFAULT if sweep.metrics is None else str(sweep.metrics)
    return dict.fromkeys(word.strip() for word in text.split(","))


def _entry(word: str) -> Entry:
    installed = registry.entries("metrics")
    if ":" not in word and word not in installed:
        known = (*PRIMARY, *installed)
        raise UsageError(f"{_FLAG}: {word!r} is not one of {', '.join(known)}; {suggestion(word, known)}")
    return registry.find(word, "metrics", flag=_FLAG)


def _planned(entry: Entry, executor: Executor) -> PlannedMetric:
    description = describe_metric(executor, entry)
    if description.failure or description.metric is None:
        raise UsageError(f"{_FLAG}: {entry.name}: {description.failure}")
    for name in description.metric.needs:
        if name not in METRICS:
            raise UsageError(f"{_FLAG}: {entry.name} needs {name!r}; {suggestion(name, METRICS)}")
    return PlannedMetric(declared=description.metric, target=entry.target, origin=description.origin)
