"""The probe of a plugin's own metric: measured on a built mechanism, or derived from a case's other figures."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from attnbench.contracts.metrics import Metric
from attnbench.contracts.record import Job, Measurement, Outcome
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.measure.workload import Workload
from attnbench.plugins import registry


def measure(job: Job, *, figures: Mapping[str, float]) -> Outcome:
    """Return the outcome of a metric's job; `figures` are those of the job's case and round, in base units."""
    declared = job.probe.declared
    assert declared is not None
    plugin = registry.load(job.metric_target)()
    if not declared.needs:
        return _measured(job, declared, plugin)
    lacking = [name for name in declared.needs if name not in figures]
    if lacking:
        raise Unsupported(f"{declared.name} is derived from {' and '.join(lacking)}, which has no figure here")
    value = plugin.derive(job.case, {name: figures[name] for name in declared.needs})
    return Outcome(status="ok", measurements=(_measurement(declared, value),))


def _measured(job: Job, declared: Metric, plugin: Any) -> Outcome:
    workload = Workload.of(job, sets=1)
    arguments = workload.callee.arguments(workload.sets[0])
    with contextlib.nullcontext() if workload.differentiates else torch.no_grad():
        value = plugin.measure(job.case, workload.callee.call, *arguments)
    workload.judge()
    return Outcome(status="ok", measurements=(_measurement(declared, value),), backend=workload.backend)


def measurement(metric: Metric, values: Iterable[float], *, flags: tuple[str, ...] = ()) -> Measurement:
    """Return a metric's measurement; JSON has no NaN and no infinity, so they are null under a flag."""
    finite = tuple(value if math.isfinite(value) else None for value in values)
    return Measurement(
        metric=metric.name,
        unit=metric.unit,
        values=finite,
        higher_is_better=metric.higher_is_better,
        flags=("non_finite", *flags) if None in finite else flags,
    )


def _measurement(metric: Metric, result: float | Iterable[float]) -> Measurement:
    """Return the measurement of what a plugin returned."""
    values = [_number(value) for value in (result if isinstance(result, list | tuple) else [result])]
    if not values:
        raise InvalidOutput(f"{metric.name} measured nothing: it returned an empty sequence")
    return measurement(metric, values)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidOutput(f"a metric is a number or a list of numbers, not {value!r:.80}") from error
