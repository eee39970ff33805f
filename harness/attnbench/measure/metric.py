"""The probe of a plugin's own metric: measured on a built mechanism, or derived from a case's other figures."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

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
        return _measured(job, plugin)
    lacking = [name for name in declared.needs if name not in figures]
    if lacking:
        raise Unsupported(f"{declared.name} is derived from {' and '.join(lacking)}, which has no figure here")
    value = plugin.derive(job.case, {name: figures[name] for name in declared.needs})
    return Outcome(status="ok", measurements=(_measurement(job, value),))


def _measured(job: Job, plugin: Any) -> Outcome:
    workload = Workload.of(job, sets=1)
    arguments = workload.callee.arguments(workload.sets[0])
    with contextlib.nullcontext() if workload.differentiates else torch.no_grad():
        value = plugin.measure(job.case, workload.callee.call, *arguments)
    workload.judge()
    return Outcome(status="ok", measurements=(_measurement(job, value),), backend=workload.backend)


def _measurement(job: Job, value: float | Iterable[float]) -> Measurement:
    declared = job.probe.declared
    assert declared is not None
    values = [_number(each) for each in (value if isinstance(value, list | tuple) else [value])]
    if not values:
        raise InvalidOutput(f"{declared.name} measured nothing: it returned an empty sequence")
    finite = tuple(each if math.isfinite(each) else None for each in values)
    return Measurement(
        metric=declared.name,
        unit=declared.unit,
        values=finite,
        higher_is_better=declared.higher_is_better,
        flags=("non_finite",) if None in finite else (),
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidOutput(f"a metric is a number or a list of numbers, not {value!r:.80}") from error
