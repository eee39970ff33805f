"""The tidy rows: one per question and metric, every statistic derived from the raw records by pure functions.

Tables, exports, comparisons and fits are made from rows and from nothing else.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from attnbench import stats
from attnbench.case import Case, Dtype, Inputs, Level, Mask, Option, Passes, Shape
from attnbench.record import PRIMARY_METRIC, Job, Measurement, ProbeKind, Profile, Record, Status
from attnbench.text import canonical

_LARGEST = 1e150  # the square of what is larger overflows
PENDING = "not measured yet"
_BASE_UNIT = {"ns": ("s", 1e9)}
_UNIT_OF_PROBE = {"latency": "s", "memory": "bytes", "agreement": "1", "accuracy": "1", "energy": "J"}
_KINDS = tuple(PRIMARY_METRIC)
_FIRST_METRICS = ("latency", "memory", "numerical_error", "approximation_error", "kept_mass", "accuracy", "energy")
_MAY_LACK = ("numerical_error", "kept_mass", "mask_leak")  # a measured case's fact of that name says why it has none
_LAST = len(_FIRST_METRICS)
ENOUGH = "enough"  # the fact of a skipped round beyond those that the profile promises
TWIN = "_twin"  # ends the metrics of the baseline's second measurement
_PASSES = ("", "forward", "backward", "forward-backward", "decode")


class Row(Struct, frozen=True, kw_only=True):
    """A figure or the reason why there is none. Names and order up to `detail` are a promise; later ones may follow."""

    run: str
    variant: str
    options: dict[str, Option]
    origin: str
    metric: str
    passes: Passes
    level: Level
    task: str  # as it is typed: mqar:preset=tiny,pairs=8
    seq_q: int
    seq_k: int
    heads: int
    kv_heads: int
    head_dim: int
    batch: int
    dtype: Dtype
    device: str
    causal: bool
    window: int | None
    status: Status
    value: float | None = None  # in `unit`: the median of the process medians, or the mean over seeds
    low: float | None = None  # the 95% interval
    high: float | None = None
    unit: str  # s, bytes, J or 1
    samples: int = 0
    rounds: int = 0  # those that gave a figure
    noise: stats.Noise = ""
    backend: str
    detail: str = ""  # why there is no figure, or which rounds gave none
    inputs: Inputs
    seed: int
    min: float | None = None  # of all samples, as are the next three
    p05: float | None = None
    p95: float | None = None
    iqr: float | None = None
    spread: float | None = None  # what `noise` judges, as a share of the value
    medians: dict[int, float] = {}  # of each round's process: what comparisons are made from
    outliers: int = 0  # samples outside Tukey's fences of their process
    flags: tuple[str, ...] = ()
    probe: ProbeKind
    primary: bool  # whether this metric is the one by which its probe is known
    higher_is_better: bool = False
    task_options: dict[str, Option]
    facts: dict[str, Option] = {}  # what the rounds found out besides; where they differ, the last one
    source: str  # hash of the plugin's source
    environment: str = ""  # key of the last round's environment
    profile: Profile
    threads: int
    hot: bool
    allocator: str


ByRound = dict[int, Measurement]


class _Question(Struct):
    """All that is known of one question of one run: its record for each round, of the highest attempt."""

    run: str
    job: Job
    rounds: dict[int, Record] = {}

    def add(self, record: Record) -> None:
        known = self.rounds.get(record.job.round)
        if known is None or record.job.attempt >= known.job.attempt:
            self.rounds[record.job.round] = record


def rows(records: Sequence[Record], planned: Sequence[Job] = (), *, run: str = "") -> list[Row]:
    """Summarise records: one row per question and metric, over its rounds; one for a question without a figure.

    A job of `planned`, the jobs of `run` (default: the records' own), whose question has no record is a row with status
    interrupted and the detail PENDING. Rows come by metric, then by variant in the order of `planned` (else of the
    records), then by shape.
    """
    questions = _questions(records, planned, run or (records[0].run if records else ""))
    order: dict[tuple[str, str], int] = {}
    for question in questions:
        order.setdefault(_identity(question.job.case), len(order))
    found = [row for question in questions for row in _rows_of(question)]
    return sorted(found, key=lambda row: _place(row, order))


def case_of(row: Row) -> Case:
    """Give the case that a row is of."""
    whole = {name: getattr(row, name) for name in Case.__struct_fields__ if name not in ("shape", "mask")}
    shape, mask = ({name: getattr(row, name) for name in part.__struct_fields__} for part in (Shape, Mask))
    return Case(shape=Shape(**shape), mask=Mask(**mask), **whole)


def _questions(records: Sequence[Record], planned: Iterable[Job], run: str) -> Iterable[_Question]:
    questions: dict[tuple[str, str], _Question] = {}
    for job in planned:
        questions.setdefault((run, job.question), _Question(run, job))
    for record in records:
        questions.setdefault((record.run, record.job.question), _Question(record.run, record.job)).add(record)
    return questions.values()


def _identity(case: Case) -> tuple[str, str]:
    return case.variant, canonical(case.options)


def _place(row: Row, order: dict[tuple[str, str], int]) -> tuple[object, ...]:
    first = _FIRST_METRICS.index(row.metric) if row.metric in _FIRST_METRICS else _LAST
    shape = (row.heads, row.kv_heads, row.seq_q, row.seq_k, row.head_dim, row.batch)
    mask = (row.causal, row.window or 0)
    return (
        *(_KINDS.index(row.probe), first, row.metric),
        order[row.variant, canonical(row.options)],
        *(_PASSES.index(row.passes), row.level, row.task, *shape),
        *(*mask, row.dtype, row.device, row.inputs, row.seed),
    )


def _rows_of(question: _Question) -> Iterator[Row]:
    records = [question.rounds[number] for number in sorted(question.rounds)]
    good = [record for record in records if record.outcome.status == "ok"]
    base = _base(question, records, good)
    measured = _by_metric(good)
    if not measured:
        yield base
        return
    if question.job.probe.twin:
        measured = {metric + TWIN: by_round for metric, by_round in measured.items()}
    primary = base.metric if base.metric in measured else next(iter(measured))
    for metric, by_round in measured.items():
        yield _with_figures(base, metric, by_round, primary=base.primary and metric == primary)
    for metric in _MAY_LACK:
        if metric in base.facts and metric not in measured:
            yield msgspec.structs.replace(base, metric=metric, detail=str(base.facts[metric]), primary=False)


def _base(question: _Question, records: list[Record], good: list[Record]) -> Row:
    """Make the row as it stands without figures: it is what a failed or pending job has."""
    job, case = question.job, question.job.case
    status, detail = _verdict(records, good)
    last = next(reversed(good or records), None)
    backends = {record.outcome.backend: None for record in good or records if record.outcome.backend}
    return Row(
        run=question.run,
        **_fields_of(case),
        origin=str(job.origin),
        metric=job.probe.metric + TWIN * job.probe.twin,
        task=job.probe.label,
        status=status,
        unit=_UNIT_OF_PROBE[job.probe.kind],
        rounds=len(good),
        backend=", ".join(backends),
        detail=detail,
        probe=job.probe.kind,
        primary=job.probe.primary,
        task_options=job.probe.task_options,
        facts={name: fact for record in good or records for name, fact in record.outcome.facts.items()},
        flags=("diverged",) if any(record.outcome.facts.get("diverged") for record in good) else (),
        source=job.origin.source_hash,
        environment=last.environment if last else "",
        profile=job.protocol.profile,
        threads=job.protocol.threads,
        hot=job.protocol.hot,
        allocator=job.protocol.allocator,
    )


def _fields_of(case: Case) -> dict[str, Any]:
    """Flatten a case: each field of its shape, its mask and its own is a column of the same name."""
    whole = {name: each for name, each in msgspec.structs.asdict(case).items() if name not in ("shape", "mask")}
    return whole | msgspec.structs.asdict(case.shape) | msgspec.structs.asdict(case.mask)


def _verdict(records: list[Record], good: list[Record]) -> tuple[Status, str]:
    """Choose the status that stands for all rounds, and say why.

    A round is skipped because an earlier one failed or was measured once, so it is that earlier one that counts.
    """
    if not records:
        return "interrupted", PENDING
    if not good:
        told = [record for record in records if record.outcome.status != "skipped"] or records
        return told[-1].outcome.status, told[-1].outcome.detail
    if not _by_metric(good):
        return "ok", "it measured nothing"
    once = any("once" in measurement.flags for record in good for measurement in record.outcome.measurements)
    expected = ("ok", "skipped") if once else ("ok",)
    lost = [record for record in records if record.outcome.status not in expected]
    return "ok", _reasons([record for record in lost if ENOUGH not in record.outcome.facts])


def _reasons(lost: list[Record]) -> str:
    """Say of each round why it gave no figure, rounds with the same reason together."""
    reasons: dict[str, list[int]] = {}
    for record in lost:
        reason = ": ".join(filter(None, (record.outcome.status, record.outcome.detail)))
        reasons.setdefault(reason, []).append(record.job.round)
    return "; ".join(
        f"round{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} {reason}"
        for reason, numbers in reasons.items()
    )


def _by_metric(good: list[Record]) -> dict[str, ByRound]:
    measured: dict[str, ByRound] = {}
    for record in good:
        for measurement in record.outcome.measurements:
            if measurement.values and not _is_curve(measurement):
                measured.setdefault(measurement.metric, {})[record.job.round] = measurement
    return measured


def _is_curve(measurement: Measurement) -> bool:
    """Tell a course of values over one training from values that repeat one another: it has no mean to report."""
    return "curve" in measurement.flags or measurement.metric.endswith("_curve")


def _with_figures(base: Row, metric: str, by_round: ByRound, *, primary: bool) -> Row:
    """Complete a row with a metric's figures, one measurement for each process."""
    measurements = list(by_round.values())
    unit, size = _BASE_UNIT.get(measurements[0].unit, (measurements[0].unit, 1.0))
    processes = [np.asarray(measurement.values, dtype=np.float64) / size for measurement in measurements]
    samples = np.concatenate(processes)  # null is now NaN
    row = msgspec.structs.replace(
        base,
        metric=metric,
        unit=unit,
        samples=samples.size,
        rounds=len(measurements),
        flags=tuple(dict.fromkeys([*base.flags, *(flag for each in measurements for flag in each.flags)])),
        primary=primary,
        higher_is_better=measurements[0].higher_is_better,
    )
    lost = samples.size - int((np.abs(samples) < _LARGEST).sum())
    if lost:
        reason = f"{lost} of {samples.size} values not finite"
        return msgspec.structs.replace(row, detail="; ".join(filter(None, (reason, base.detail))))
    return _with_statistics(row, samples, dict(zip(by_round, processes, strict=True)))


def _with_statistics(row: Row, samples: stats.FloatArray, processes: dict[int, stats.FloatArray]) -> Row:
    lying = [stats.quantiles(process) for process in processes.values()]
    pooled = lying[0] if len(lying) == 1 else stats.quantiles(samples)
    trained = row.probe == "accuracy"
    repeated = row.probe in ("latency", "memory", "energy")  # a seed or an input that differs is no repetition
    medians = [process.median for process in lying]
    estimate = stats.mean_over_seeds(samples.tolist()) if trained else stats.median_of_processes(medians)
    spread = stats.relative_spread(lying) if repeated else None
    labels = (stats.tukey_labels(process, middle) for process, middle in zip(processes.values(), lying, strict=True))
    return msgspec.structs.replace(
        row,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        noise=stats.noise_verdict(spread),
        min=pooled.min,
        p05=pooled.p05,
        p95=pooled.p95,
        iqr=pooled.iqr,
        spread=spread,
        medians=dict(zip(processes, medians, strict=True)),
        outliers=sum(int(np.count_nonzero(each)) for each in labels),
    )
