"""The tidy rows: one for each measured job and metric over its rounds, every statistic derived from stored samples.

Tables, exports, comparisons and fits are made from rows and from nothing else.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args

import msgspec
import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import replace

from attnbench.contracts import stats
from attnbench.contracts.case import Case, Identity, Option
from attnbench.contracts.metrics import METRICS, Metric, ProbeKind, metric_named
from attnbench.contracts.record import (
    ENOUGH,
    PENDING,
    Job,
    Measurement,
    Origin,
    Outcome,
    Probe,
    Protocol,
    Record,
    Status,
)
from attnbench.contracts.stats import FloatArray

TWIN = "_twin"  # ends the metrics of the baseline's second measurement
_ORDER = {name: index for index, name in enumerate(METRICS)}
_KINDS = get_args(ProbeKind)
_MAY_LACK = ("numerical_error", "kept_mass", "mask_leak")  # a fact of that name is the reason why there is no figure
_PASSES = ("", "forward", "backward", "forward-backward", "decode")
_LARGEST = 1e150  # the square of a larger sample overflows


def _figure(description: str) -> Meta:
    return Meta(description=description, extra={"unit": "`unit`"})


class Row(Struct, frozen=True, kw_only=True):
    """A metric of a case over its rounds: the figure, or the reason why there is none.

    `report.flat` has it as columns: the fields of the case, then those described here.
    """

    run: Annotated[str, Meta(description="id of the run: the name of its folder")]
    case: Case
    origin: Origin
    probe: Probe
    protocol: Protocol
    metric: Annotated[str, Meta(description="what was measured")]
    status: Annotated[Status, Meta(description="ok, or what became of the case instead")]
    value: Annotated[
        float | None, _figure("the reported figure: median of the process medians, or mean over seeds; null unless ok")
    ] = None
    low: Annotated[float | None, _figure("lower end of its 95% interval; null below 3 rounds or seeds")] = None
    high: Annotated[float | None, _figure("upper end of it")] = None
    unit: Annotated[str, Meta(description="of the figures of this row: a base unit (s, bytes, J), a rate of it, or 1")]
    samples: Annotated[int, Meta(description="values that the figure is made of, over all rounds")] = 0
    rounds: Annotated[int, Meta(description="rounds, or seeds, that gave a figure")] = 0
    noise: Annotated[stats.Noise, Meta(description="verdict on `spread`: clean to 2%, noisy to 10%, unusable")] = ""
    backend: Annotated[str, Meta(description="the kernel that ran; several where rounds differ")] = ""
    detail: Annotated[str, Meta(description="why there is no figure, or which rounds gave none")] = ""
    min: Annotated[float | None, _figure("smallest sample of all processes")] = None
    p05: Annotated[float | None, _figure("5% of all samples lie below")] = None
    p95: Annotated[float | None, _figure("95% of all samples lie below")] = None
    iqr: Annotated[float | None, _figure("width of the middle half of all samples")] = None
    spread: Annotated[
        float | None, Meta(description="standard deviation of a repetition over the value", extra={"unit": "share"})
    ] = None
    medians: Annotated[
        dict[int, float], _figure("median of each round's process, by round: what comparisons are made from")
    ] = {}
    outliers: Annotated[int, Meta(description="samples beyond Tukey's fences (1.5 IQR) of their process")] = 0
    flags: Annotated[
        tuple[str, ...], Meta(description="what to know of the figure: once, few_samples, diverged, ...")
    ] = ()
    primary: Annotated[bool, Meta(description="whether this is the metric by which its probe is known in tables")]
    higher_is_better: Annotated[bool, Meta(description="whether a larger value is a better one")] = False
    facts: Annotated[
        dict[str, Option], Meta(description="what the rounds found out besides; where they differ, the last one's")
    ] = {}
    environment: Annotated[str, Meta(description="key of the last round's environment in the journal")] = ""

    @property
    def identity(self) -> Identity:
        """The variant, its options as JSON, and its origin: equal for rows of the same variant."""
        return *self.case.identity, self.origin.name

    @property
    def about(self) -> Metric:
        """The metric as the table of metrics, or its plugin, describes it."""
        if self.metric == self.probe.metric.name:
            return self.probe.metric
        return metric_named(self.metric)

    @property
    def task(self) -> str:
        """The task as it is typed; empty where the probe has none."""
        return self.probe.label


class _Measured(Struct):
    """All rounds of one job of one run: its records by round, and the rounds that the plan asks for."""

    run: str
    job: Job
    planned: set[int]
    records: dict[int, Record]


def rows(records: Iterable[Record], planned: Sequence[Job] = (), *, run: str = "") -> list[Row]:
    """Summarise records: one row for each job and metric, over the job's rounds; one for a job without a figure.

    With `planned`, the jobs of `run`, records of other jobs are left out, and a planned job without a record has a row
    with the status interrupted and the detail PENDING. Rows come by metric, then by variant in the order of `planned`
    (else of the records), then by shape.
    """
    jobs = _by_job(records, planned, run)
    drafts = [draft for job in jobs for draft in _drafts(job)]
    figures = iter(_figures([by_round for _, by_round in drafts if by_round]))
    found = [_with_figure(row, by_round, next(figures)) if by_round else row for row, by_round in drafts]
    variants = {identity: rank for rank, identity in enumerate(dict.fromkeys(row.case.identity for row in found))}
    return sorted(found, key=lambda row: _place(row, variants[row.case.identity]))


def _by_job(records: Iterable[Record], planned: Sequence[Job], run: str) -> list[_Measured]:
    found: dict[tuple[str, bytes], _Measured] = {}
    for job in planned:
        found.setdefault((run, _key(job)), _Measured(run, job, set(), {})).planned.add(job.round)
    for record in records:
        key = (run if planned else record.run, _key(record.job))
        if not planned:
            found.setdefault(key, _Measured(record.run, record.job, set(), {})).planned.add(record.job.round)
        if key in found and record.job.round in found[key].planned:
            _keep(record, found[key].records)
    for measured in found.values():
        measured.records = dict(sorted(measured.records.items()))
    return list(found.values())


def _keep(record: Record, by_round: dict[int, Record]) -> None:
    """Keep the record of a round's highest attempt, the last one of those."""
    current = by_round.get(record.job.round)
    if current is None or record.job.attempt >= current.job.attempt:
        by_round[record.job.round] = record


def _key(job: Job) -> bytes:
    """Return what identifies a job but for its round, as `Job.question` does without the cost of a hash."""
    return msgspec.json.encode((job.case, job.probe, job.protocol, job.origin), order="deterministic")


def _drafts(measured: _Measured) -> Iterator[tuple[Row, Mapping[int, Measurement]]]:
    """Return a job's rows without their figures, each with the measurements of its metric by round."""
    good = {number: record for number, record in measured.records.items() if record.outcome.status == "ok"}
    metrics = _by_metric(good, twin=measured.job.probe.twin)
    base = _base(measured, good, has_figure=bool(metrics))
    leading = base.metric if base.metric in metrics else next(iter(metrics), base.metric)
    lacking = [metric for metric in _MAY_LACK if metrics and metric in base.facts and metric not in metrics]
    for metric, by_round in metrics.items():
        yield replace(base, metric=metric, primary=base.primary and metric == leading), by_round
    for metric in lacking:
        primary = base.primary and metric == leading
        yield replace(base, metric=metric, primary=primary, detail=str(base.facts[metric])), {}
    if not metrics:
        yield base, {}


def _by_metric(good: Mapping[int, Record], *, twin: bool) -> dict[str, dict[int, Measurement]]:
    """Return each metric's measurement of each round; curves over a training are no figures."""
    found: dict[str, dict[int, Measurement]] = {}
    for number, record in good.items():
        for measurement in record.outcome.measurements:
            is_curve = "curve" in measurement.flags or measurement.metric.endswith("_curve")
            if measurement.values and not is_curve:
                found.setdefault(measurement.metric + TWIN * twin, {})[number] = measurement
    return found


def _base(measured: _Measured, good: Mapping[int, Record], *, has_figure: bool) -> Row:
    """Return a job's row as it stands without figures: that of a failed or pending job."""
    job, probe = measured.job, measured.job.probe
    status, detail = _verdict(measured.records, good, has_figure=has_figure)
    telling = list((good or measured.records).values())
    facts: dict[str, Option] = {}
    for record in telling:
        facts |= record.outcome.facts
    diverged = any(record.outcome.facts.get("diverged") for record in good.values())
    return Row(
        run=measured.run,
        case=job.case,
        origin=job.origin,
        probe=probe,
        protocol=job.protocol,
        metric=probe.metric.name + TWIN * probe.twin,
        status=status,
        unit=probe.metric.unit,
        rounds=len(good),
        backend=", ".join(dict.fromkeys(record.outcome.backend for record in telling if record.outcome.backend)),
        detail=detail,
        flags=("diverged",) * diverged,
        primary=probe.primary,
        facts=facts,
        environment=telling[-1].environment if telling else "",
    )


def _verdict(records: Mapping[int, Record], good: Mapping[int, Record], *, has_figure: bool) -> tuple[Status, str]:
    """Return the status that stands for all rounds, with the reason; `good` are the records that are ok.

    A round is skipped because an earlier one failed or was measured once, so that earlier one counts.
    """
    if not records:
        return "interrupted", PENDING
    if not good:
        outcomes = [record.outcome for record in records.values()]
        *_, last = [outcome for outcome in outcomes if outcome.status != "skipped"] or outcomes
        return last.status, last.detail
    if not has_figure:
        return "ok", "it measured nothing"
    once = any("once" in measurement.flags for record in good.values() for measurement in record.outcome.measurements)
    expected = ("ok", "skipped") if once else ("ok",)
    lost = {number: record.outcome for number, record in records.items() if record.outcome.status not in expected}
    return "ok", _reasons({number: outcome for number, outcome in lost.items() if ENOUGH not in outcome.facts})


def _reasons(lost: Mapping[int, Outcome]) -> str:
    """Return why rounds gave no figure, those with the same reason together."""
    reasons: dict[str, list[int]] = {}
    for number, outcome in lost.items():
        reasons.setdefault(": ".join(filter(None, (outcome.status, outcome.detail))), []).append(number)
    return "; ".join(
        f"round{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {reason}"
        for reason, numbers in reasons.items()
    )


class _Figure(Struct):
    """What the samples of one metric give: NaN where too few or lost samples leave a statistic undefined."""

    samples: FloatArray
    lost: int
    estimate: list[float]
    quantiles: list[float]
    spread: float
    medians: list[float]
    outliers: int


def _with_figure(row: Row, by_round: Mapping[int, Measurement], figure: _Figure) -> Row:
    """Return a row with its figure; where a value was lost there is none, and the reason says so."""
    first = next(iter(by_round.values()))
    flags = dict.fromkeys([*row.flags, *(flag for each in by_round.values() for flag in each.flags)])
    told: dict[str, Any] = {
        "unit": "s" if first.unit == "ns" else first.unit,
        "samples": len(figure.samples),
        "rounds": len(by_round),
        "flags": tuple(flags),
        "higher_is_better": first.higher_is_better,
    }
    if figure.lost:
        gone = f"{figure.lost} of {len(figure.samples)} values not finite"
        return replace(row, **told, detail="; ".join(filter(None, (gone, row.detail))))
    value, low, high = figure.estimate
    if row.probe.metric.replicates == "seeds":  # these do not repeat one another
        mean = stats.mean_over_seeds(figure.samples.tolist())
        value, low, high = mean.value, _or_nan(mean.low), _or_nan(mean.high)
    least, p05, p25, _, p75, p95 = figure.quantiles
    spread, repeats = _or_none(figure.spread), row.probe.metric.replicates == "rounds"
    return replace(
        row,
        **told,
        value=value,
        low=_or_none(low),
        high=_or_none(high),
        noise=stats.noise_verdict(spread) if repeats else "",
        min=least,
        p05=p05,
        p95=p95,
        iqr=p75 - p25,
        spread=spread if repeats else None,
        medians=dict(zip(by_round, figure.medians, strict=True)),
        outliers=figure.outliers,
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _figures(measured: Sequence[Mapping[int, Measurement]]) -> Iterator[_Figure]:
    """Return the figure of each metric's measurements; sets of samples of one size are described at once."""
    processes = [_seconds(each) for by_round in measured for each in by_round.values()]
    lost = [_drop_lost(each) for each in processes]
    medians, outliers = np.empty(len(processes)), np.empty(len(processes), dtype=np.int64)
    for indices, samples_NC in _by_size(processes):
        quantiles_N6 = stats.quantiles_of_each(samples_NC)
        medians[indices] = quantiles_N6[:, 3]
        labels_NC = stats.tukey_labels(samples_NC, quantiles_N6[:, 2:3], quantiles_N6[:, 4:5])
        outliers[indices] = np.count_nonzero(labels_NC, axis=1)
    ends = np.cumsum([len(by_round) for by_round in measured])
    spans = [slice(end - len(by_round), end) for by_round, end in zip(measured, ends.tolist(), strict=True)]
    pooled = [np.concatenate(processes[span]) for span in spans]
    quantiles_F6, estimates_F3, spreads_F = np.empty((len(spans), 6)), np.empty((len(spans), 3)), np.empty(len(spans))
    counts_F = np.array([len(samples) for samples in pooled], dtype=np.int64)
    for indices, samples_NC in _by_size(pooled):
        quantiles_F6[indices] = stats.quantiles_of_each(samples_NC)
    iqr_F = quantiles_F6[:, 4] - quantiles_F6[:, 2]
    for indices, medians_NR in _by_size([medians[span] for span in spans]):
        estimates_F3[indices] = stats.medians_of_processes(medians_NR)
        spreads_F[indices] = stats.relative_spreads(medians_NR, iqr_F[indices], counts_F[indices])
    for index, span in enumerate(spans):
        yield _Figure(
            samples=pooled[index],
            lost=sum(lost[span]),
            estimate=estimates_F3[index].tolist(),
            quantiles=quantiles_F6[index].tolist(),
            spread=float(spreads_F[index]),
            medians=medians[span].tolist(),
            outliers=int(outliers[span].sum()),
        )


def _seconds(measurement: Measurement) -> FloatArray:
    """Return the samples in their base unit; null becomes NaN."""
    samples = np.array(measurement.values, dtype=np.float64)
    return samples / 1e9 if measurement.unit == "ns" else samples


def _drop_lost(samples: FloatArray) -> int:
    """Put a zero in the place of each value that is not finite, or too large to square; return their number."""
    is_lost = ~(np.abs(samples) < _LARGEST)
    samples[is_lost] = 0.0
    return int(np.count_nonzero(is_lost))


def _by_size(arrays: Sequence[FloatArray]) -> Iterator[tuple[list[int], FloatArray]]:
    """Return the arrays of each size stacked, with their indices."""
    indices: dict[int, list[int]] = {}
    for index, array in enumerate(arrays):
        indices.setdefault(len(array), []).append(index)
    for same in indices.values():
        yield same, np.stack([arrays[index] for index in same])


def _place(row: Row, variant: int) -> tuple[object, ...]:
    """Return a row's sort key; `variant` is the rank of its variant."""
    metric = (_KINDS.index(row.probe.kind), _ORDER.get(row.metric, len(_ORDER)), row.metric)
    case, shape = row.case, row.case.shape
    sizes = (shape.heads, shape.kv_heads, shape.seq_q, shape.seq_k, shape.head_dim, shape.batch)
    mask = (case.mask.causal, case.mask.window or 0)
    where = (case.dtype, case.device, case.inputs, case.seed)
    return *metric, variant, _PASSES.index(case.passes), case.level, row.task, *sizes, *mask, *where
