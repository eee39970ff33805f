"""Tidy rows: one for each job and metric over its rounds, with every statistic derived from stored samples.

Tables, exports, comparisons and fits are made from rows alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, get_args

from msgspec import Meta, Struct
from msgspec.structs import replace

from attnbench.analysis.groups import group_by
from attnbench.analysis.samples import Statistics, statistics_of
from attnbench.contracts import stats
from attnbench.contracts.case import Case, Identity, Option, Passes
from attnbench.contracts.metrics import BEYOND, METRICS, Metric, ProbeKind, accuracy_beyond, metric_named
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
from attnbench.plugins.empty import FLOOR, WORST

TWIN = "_twin"  # suffix of the metrics of the baseline's second measurement
_HARNESS = "attnbench"  # the distribution of the empty variant: a user's plugin may have the same name
_METRIC_ORDER = {name: index for index, name in enumerate(METRICS)}
_PROBE_ORDER = get_args(ProbeKind)
_PASS_ORDER = get_args(Passes)
_NOT_TRIED: tuple[Status, ...] = ("interrupted", "skipped", "device_lost")
# A fact of that name is the reason why there is no value.
_MAY_LACK = ("numerical_error", "kept_mass", "mask_leak", *map(accuracy_beyond, BEYOND))


def _in_unit(description: str) -> Meta:
    return Meta(description=description, extra={"unit": "`unit`"})


class Row(Struct, frozen=True, kw_only=True):
    """A metric of a case over its rounds: its value, or the reason why there is none.

    `report.flat` has it as columns: the fields of the case, then those described here.
    """

    run: Annotated[str, Meta(description="id of the run: the name of its folder")]
    case: Case
    origin: Origin
    probe: Probe
    protocol: Protocol
    metric: Annotated[str, Meta(description="what was measured")]
    status: Annotated[Status, Meta(description="ok, or why there is no value")]
    value: Annotated[
        float | None, _in_unit("the reported value: median of the process medians, or mean over seeds; null unless ok")
    ] = None
    low: Annotated[float | None, _in_unit("lower end of its 95% interval; null below 3 rounds or seeds")] = None
    high: Annotated[float | None, _in_unit("upper end of the 95% interval")] = None
    unit: Annotated[str, Meta(description="unit of the row's values: s, bytes, J, a rate, 1, or a plugin's own")]
    samples: Annotated[int, Meta(description="number of samples behind the value, over all rounds")] = 0
    rounds: Annotated[int, Meta(description="number of rounds, or seeds, that gave a value")] = 0
    noise: Annotated[stats.Noise, Meta(description="verdict on `spread`: clean to 2%, noisy to 10%, very noisy")] = ""
    backend: Annotated[str, Meta(description="the kernel that ran; several where rounds differ")] = ""
    detail: Annotated[str, Meta(description="why there is no value, or which rounds gave none")] = ""
    min: Annotated[float | None, _in_unit("smallest sample of all processes")] = None
    p05: Annotated[float | None, _in_unit("5% of all samples lie below")] = None
    p95: Annotated[float | None, _in_unit("95% of all samples lie below")] = None
    iqr: Annotated[float | None, _in_unit("width of the middle half of all samples")] = None
    spread: Annotated[
        float | None, Meta(description="standard deviation of a repetition, over the value", extra={"unit": "share"})
    ] = None
    medians: Annotated[
        dict[int, float], _in_unit("median of each round's process, by round; comparisons are made from these")
    ] = {}
    outliers: Annotated[int, Meta(description="samples beyond Tukey's fences (1.5 IQR) of their process")] = 0
    flags: Annotated[tuple[str, ...], Meta(description="remarks on the value: once, few_samples, diverged, ...")] = ()
    primary: Annotated[bool, Meta(description="whether tables show this metric by default")]
    higher_is_better: Annotated[bool, Meta(description="whether larger values are better")] = False
    facts: Annotated[
        dict[str, Option], Meta(description="what else the rounds recorded; where they differ, the last round's")
    ] = {}
    environment: Annotated[str, Meta(description="key of the last round's environment in the journal")] = ""

    @property
    def identity(self) -> Identity:
        """The variant, its options as JSON, and its origin: equal for rows of the same variant."""
        return *self.case.identity, self.origin.name

    @property
    def has_failed(self) -> bool:
        """Whether the case was tried and gave no value; one that is pending, interrupted or skipped was not tried."""
        return self.value is None and self.detail != PENDING and self.status not in _NOT_TRIED

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

    @property
    def is_floor(self) -> bool:
        """Whether the row is the floor of a quality, which is measured beside every variant."""
        return self.case.variant == WORST and self.origin.distribution == _HARNESS

    @property
    def is_harness(self) -> bool:
        """Whether the row is the harness's own cost, which every run measures."""
        return self.case.variant == FLOOR and self.origin.distribution == _HARNESS


class _Question(Struct):
    """The rounds of one job in one run: the rounds that are planned, and their records."""

    run: str
    job: Job
    planned: set[int]
    records: dict[int, Record]


def rows(records: Iterable[Record], planned: Sequence[Job] = (), *, run: str = "") -> list[Row]:
    """Summarise records: one row for each job and metric over the job's rounds; one for a job without a value.

    With `planned`, the jobs of `run`, records of other jobs are left out, and a planned job without a record has a row
    with the status interrupted and the detail PENDING. Rows come by metric, then by variant in the order of `planned`
    (else of the records), then by shape.
    """
    questions = _by_question(records, planned, run)
    drafts = [draft for question in questions for draft in _drafts(question)]
    statistics = statistics_of([list(by_round.values()) for _, by_round in drafts if by_round])
    unordered = [_with_statistics(row, by_round, next(statistics)) if by_round else row for row, by_round in drafts]
    variants = {identity: rank for rank, identity in enumerate(dict.fromkeys(row.case.identity for row in unordered))}
    return sorted(unordered, key=lambda row: _sort_key(row, variants[row.case.identity]))


def _by_question(records: Iterable[Record], planned: Sequence[Job], run: str) -> list[_Question]:
    questions: dict[tuple[str, str], _Question] = {}
    for job in planned:
        questions.setdefault((run, job.question), _Question(run, job, set(), {})).planned.add(job.round)
    for record in records:
        key = (run if planned else record.run, record.job.question)
        if not planned:
            questions.setdefault(key, _Question(record.run, record.job, set(), {})).planned.add(record.job.round)
        if key in questions and record.job.round in questions[key].planned:
            _keep_last_attempt(record, questions[key].records)
    for question in questions.values():
        question.records = dict(sorted(question.records.items()))
    return list(questions.values())


def _keep_last_attempt(record: Record, by_round: dict[int, Record]) -> None:
    current = by_round.get(record.job.round)
    if current is None or record.job.attempt >= current.job.attempt:
        by_round[record.job.round] = record


def _drafts(question: _Question) -> Iterator[tuple[Row, Mapping[int, Measurement]]]:
    """Yield the rows of a question without statistics, each with the measurements of its metric by round."""
    good = {number: record for number, record in question.records.items() if record.outcome.status == "ok"}
    metrics = _by_metric(good, twin=question.job.probe.twin)
    base = _base_row(question, good, has_value=bool(metrics))
    leading = base.metric if base.metric in metrics else next(iter(metrics), base.metric)
    lacking = [metric for metric in _MAY_LACK if metrics and metric in base.facts and metric not in metrics]
    for metric, by_round in metrics.items():
        shown = metric == leading or metric_named(metric).shown
        yield replace(base, metric=metric, primary=base.primary and shown), by_round
    for metric in lacking:
        primary = base.primary and metric == leading
        yield replace(base, metric=metric, primary=primary, detail=str(base.facts[metric])), {}
    if not metrics:
        yield base, {}


def _by_metric(good: Mapping[int, Record], *, twin: bool) -> dict[str, dict[int, Measurement]]:
    """Return the measurements of each metric by round, without curves over a training."""
    metrics: dict[str, dict[int, Measurement]] = {}
    for number, record in good.items():
        for measurement in record.outcome.measurements:
            is_curve = "curve" in measurement.flags or measurement.metric.endswith("_curve")
            if measurement.values and not is_curve:
                metrics.setdefault(measurement.metric + TWIN * twin, {})[number] = measurement
    return metrics


def _base_row(question: _Question, good: Mapping[int, Record], *, has_value: bool) -> Row:
    """Return the row of a question without statistics: that of a failed or pending job."""
    job, probe = question.job, question.job.probe
    status, detail = _status(question.records, good, has_value=has_value)
    described = list((good or question.records).values())
    facts: dict[str, Option] = {}
    for record in described:
        facts |= record.outcome.facts
    diverged = any(record.outcome.facts.get("diverged") for record in good.values())
    return Row(
        run=question.run,
        case=job.case,
        origin=job.origin,
        probe=probe,
        protocol=job.protocol,
        metric=probe.metric.name + TWIN * probe.twin,
        status=status,
        unit=probe.metric.unit,
        rounds=len(good),
        backend=", ".join(dict.fromkeys(record.outcome.backend for record in described if record.outcome.backend)),
        detail=detail,
        flags=("diverged",) * diverged,
        primary=probe.primary,
        facts=facts,
        environment=described[-1].environment if described else "",
    )


def _status(records: Mapping[int, Record], good: Mapping[int, Record], *, has_value: bool) -> tuple[Status, str]:
    """Return the status of all rounds together, with the reason; `good` are the records that are ok.

    A round is skipped because an earlier one failed or was measured once; the earlier one decides.
    """
    if not records:
        return "interrupted", PENDING
    if not good:
        outcomes = [record.outcome for record in records.values()]
        *_, last = [outcome for outcome in outcomes if outcome.status != "skipped"] or outcomes
        return last.status, last.detail
    if not has_value:
        return "ok", "it measured nothing"
    once = any("once" in measurement.flags for record in good.values() for measurement in record.outcome.measurements)
    expected = ("ok", "skipped") if once else ("ok",)
    lost = {number: record.outcome for number, record in records.items() if record.outcome.status not in expected}
    return "ok", _reasons({number: outcome for number, outcome in lost.items() if ENOUGH not in outcome.facts})


def _reasons(lost: Mapping[int, Outcome]) -> str:
    """Return why rounds have no value; rounds with the same reason stand together."""
    reasons = group_by(lost, lambda number: ": ".join(filter(None, (lost[number].status, lost[number].detail))))
    return "; ".join(
        f"round{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {reason}"
        for reason, numbers in reasons.items()
    )


def _with_statistics(draft: Row, by_round: Mapping[int, Measurement], of: Statistics) -> Row:
    """Return a row with its statistics; where a sample was lost there are none, and `detail` says so."""
    first = next(iter(by_round.values()))
    flags = dict.fromkeys([*draft.flags, *(flag for measured in by_round.values() for flag in measured.flags)])
    row = replace(
        draft,
        unit="s" if first.unit == "ns" else first.unit,
        samples=len(of.samples),
        rounds=len(by_round),
        flags=tuple(flags),
        higher_is_better=first.higher_is_better,
    )
    if of.lost:
        reason = f"{of.lost} of {len(of.samples)} values not finite"
        return replace(row, detail="; ".join(filter(None, (reason, row.detail))))
    replicates = row.probe.metric.replicates
    estimate = stats.mean_over_seeds(of.samples.tolist()) if replicates == "seeds" else of.estimate
    least, p05, p25, _, p75, p95 = of.quantiles
    return replace(
        row,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        noise=stats.noise_verdict(of.spread) if replicates == "rounds" else "",
        min=least,
        p05=p05,
        p95=p95,
        iqr=p75 - p25,
        spread=of.spread if replicates == "rounds" else None,
        medians=dict(zip(by_round, of.medians, strict=True)),
        outliers=of.outliers,
    )


def _sort_key(row: Row, variant: int) -> tuple[object, ...]:
    """Return the key by which rows are sorted; `variant` is the rank of its variant."""
    metric = (_PROBE_ORDER.index(row.probe.kind), _METRIC_ORDER.get(row.metric, len(METRICS)), row.metric)
    case, shape = row.case, row.case.shape
    sizes = (shape.heads, shape.kv_heads, shape.seq_q, shape.seq_k, shape.head_dim, shape.batch)
    mask = (case.mask.causal, case.mask.window or 0)
    rest = (case.dtype, case.device, case.inputs, case.seed)
    return *metric, variant, _PASS_ORDER.index(case.passes), case.level, row.task, *sizes, *mask, *rest
