"""The tidy rows: one per question and metric, every statistic derived from the raw records by pure functions.

Tables, exports, comparisons and fits are made from rows and from nothing else.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from attnbench import stats
from attnbench.case import Case, Dtype, Inputs, Level, Mask, Option, Passes, Shape
from attnbench.insight.questions import ENOUGH, PENDING, ByRound, Question, by_metric, facts_of, questions, verdict
from attnbench.insight.samples import Described, described
from attnbench.record import PRIMARY_METRIC, Job, ProbeKind, Profile, Record, Status
from attnbench.text import canonical

__all__ = ["ENOUGH", "PENDING", "TWIN", "Row", "case_of", "rows"]

TWIN = "_twin"  # ends the metrics of the baseline's second measurement
_UNIT_OF_PROBE = {"latency": "s", "memory": "bytes", "agreement": "1", "accuracy": "1", "energy": "J"}
_KINDS = {kind: place for place, kind in enumerate(PRIMARY_METRIC)}
_FIRST_METRICS = ("latency", "memory", "numerical_error", "approximation_error", "kept_mass", "accuracy", "energy")
_PLACES = {metric: place for place, metric in enumerate(_FIRST_METRICS)}
_MAY_LACK = ("numerical_error", "kept_mass", "mask_leak")  # a measured case's fact of that name says why it has none
_PASSES = ("", "forward", "backward", "forward-backward", "decode")
_REPEATED = ("latency", "memory", "energy")  # a seed or an input that differs is no repetition


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
    shape_name: str = ""  # where the suite lists shapes by name
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


class _Draft(Struct, frozen=True, eq=False):
    """A row to be: `base` is what its question has in common, `by_round` what its figures are made from."""

    base: Row
    metric: str
    by_round: ByRound
    primary: bool
    place: tuple[object, ...]


def rows(records: Sequence[Record], planned: Sequence[Job] = (), *, run: str = "", stray: bool = True) -> list[Row]:
    """Summarise records: one row per question and metric, over its rounds; one for a question without a figure.

    A job of `planned`, the jobs of `run` (default: the records' own), whose question has no record is a row with status
    interrupted and the detail PENDING; without `stray`, records of jobs that are not planned make no row. Rows come by
    metric, then by variant in the order of `planned` (else of the records), then by shape.
    """
    ranks: dict[tuple[str, str], int] = {}
    drafts: list[_Draft] = []
    for question in questions(records, planned, run=run or (records[0].run if records else ""), stray=stray):
        rank = ranks.setdefault(_identity(question.job.case), len(ranks))
        drafts += _drafts(question, rank)
    drafts.sort(key=lambda draft: draft.place)
    found = iter(described([list(draft.by_round.values()) for draft in drafts if draft.by_round]))
    return [_measured(draft, next(found)) if draft.by_round else _unmeasured(draft) for draft in drafts]


def case_of(row: Row) -> Case:
    """Give the case that a row is of."""
    whole = {name: getattr(row, name) for name in Case.__struct_fields__ if name not in ("shape", "mask")}
    shape, mask = ({name: getattr(row, name) for name in part.__struct_fields__} for part in (Shape, Mask))
    return Case(shape=Shape(**shape), mask=Mask(**mask), **whole)


def _identity(case: Case) -> tuple[str, str]:
    return case.variant, canonical(case.options)


def _drafts(question: Question, rank: int) -> Iterator[_Draft]:
    records = question.records
    good = [record for record in records if record.outcome.status == "ok"]
    suffix = TWIN * question.job.probe.twin
    measured = {metric + suffix: by_round for metric, by_round in by_metric(good).items()}
    base = _base(question, records, good, measured=bool(measured))
    known = base.metric if base.metric in measured else next(iter(measured), base.metric)
    lacking = [metric for metric in _MAY_LACK if measured and metric in base.facts and metric not in measured]
    rest = _place_among_cases(base, rank)
    for metric in [*measured, *lacking] or [base.metric]:
        place = (_KINDS[base.probe], _PLACES.get(metric, len(_PLACES)), metric, *rest)
        yield _Draft(base, metric, measured.get(metric, {}), base.primary and metric == known, place)


def _place_among_cases(row: Row, rank: int) -> tuple[object, ...]:
    shape = (row.heads, row.kv_heads, row.seq_q, row.seq_k, row.head_dim, row.batch)
    mask = (row.causal, row.window or 0)
    where = (row.dtype, row.device, row.inputs, row.seed)
    return rank, _PASSES.index(row.passes), row.level, row.task, *shape, *mask, *where


def _base(question: Question, records: list[Record], good: list[Record], *, measured: bool) -> Row:
    """Make the row as it stands without figures: it is what a failed or pending job has."""
    job, case = question.job, question.job.case
    status, detail = verdict(records, good, measured=measured)
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
        facts=facts_of(good or records),
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
    asdict = msgspec.structs.asdict
    whole = asdict(case) | asdict(case.shape) | asdict(case.mask)
    del whole["shape"], whole["mask"]
    return whole


def _unmeasured(draft: _Draft) -> Row:
    """Give the row of a question without any figure, or of a figure that a measured case lacks, with its reason."""
    if draft.metric == draft.base.metric:
        return draft.base
    return replace(draft.base, metric=draft.metric, detail=str(draft.base.facts[draft.metric]), primary=False)


def _measured(draft: _Draft, found: Described) -> Row:
    """Complete a row with a metric's figures, one measurement for each process."""
    measurements = list(draft.by_round.values())
    lost = f"{found.lost} of {found.samples.size} values not finite" if found.lost else ""
    return replace(
        draft.base,
        metric=draft.metric,
        unit=found.unit,
        samples=found.samples.size,
        rounds=len(measurements),
        flags=tuple(dict.fromkeys([*draft.base.flags, *(flag for each in measurements for flag in each.flags)])),
        primary=draft.primary,
        higher_is_better=measurements[0].higher_is_better,
        detail="; ".join(filter(None, (lost, draft.base.detail))),
        **({} if lost else _figures(draft, found)),
    )


def _figures(draft: _Draft, found: Described) -> dict[str, Any]:
    """Give the columns that statistics fill."""
    trained, repeated = draft.base.probe == "accuracy", draft.base.probe in _REPEATED
    estimate = stats.mean_over_seeds(found.samples.tolist()) if trained else stats.median_of_processes(found.medians)
    spread = stats.relative_spread(found.medians, found.pooled) if repeated else None
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "noise": stats.noise_verdict(spread),
        "min": found.pooled.min,
        "p05": found.pooled.p05,
        "p95": found.pooled.p95,
        "iqr": found.pooled.iqr,
        "spread": spread,
        "medians": dict(zip(draft.by_round, found.medians, strict=True)),
        "outliers": found.outliers,
    }
