"""The tidy rows: one per question and metric, every statistic derived from the raw records by pure functions.

Tables, exports, comparisons and fits are made from rows and from nothing else.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from attnbench import stats
from attnbench.case import Case, Dtype, Inputs, Level, Mask, Option, Passes, Shape
from attnbench.insight.questions import ENOUGH, PENDING, ByRound, Question, by_metric, facts_of, questions, verdict
from attnbench.insight.samples import Described, described
from attnbench.record import PRIMARY_METRIC, Job, ProbeKind, Profile, Record, Status
from attnbench.text import canonical

__all__ = ["ENOUGH", "PENDING", "TWIN", "Own", "Row", "Split", "case_of", "rows", "split", "split_rows"]

TWIN = "_twin"  # ends the metrics of the baseline's second measurement
_UNIT_OF_PROBE = {"latency": "s", "memory": "bytes", "agreement": "1", "accuracy": "1", "energy": "J"}
_KINDS = {kind: place for place, kind in enumerate(PRIMARY_METRIC)}
_FIRST_METRICS = ("latency", "memory", "numerical_error", "approximation_error", "kept_mass", "accuracy", "energy")
_PLACES = {metric: place for place, metric in enumerate(_FIRST_METRICS)}
_MAY_LACK = ("numerical_error", "kept_mass", "mask_leak")  # a measured case's fact of that name says why it has none
_PASSES = ("", "forward", "backward", "forward-backward", "decode")
_REPEATED = ("latency", "memory", "energy")  # a seed or an input that differs is no repetition


def _figure(description: str) -> Meta:
    return Meta(description=description, extra={"unit": "`unit`"})


class Row(Struct, frozen=True, kw_only=True):
    """A figure or the reason why there is none. Names and order up to `detail` are a promise; later ones may follow.

    What a column means that is no field of a case (those say it themselves) is its description here; `_figure` marks
    numbers in the row's own unit.
    """

    run: Annotated[str, Meta(description="id of the run: the name of its folder")]
    variant: str
    options: dict[str, Option]
    origin: Annotated[str, Meta(description="where the variant comes from: distribution and version, or a file")]
    metric: Annotated[str, Meta(description="what was measured")]
    passes: Passes
    level: Level
    task: Annotated[str, Meta(description="the task as it is typed (mqar:preset=tiny,pairs=8), or empty")]
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
    backend: Annotated[str, Meta(description="the kernel that ran; several where rounds differ")]
    detail: Annotated[str, Meta(description="why there is no figure, or which rounds gave none")] = ""
    inputs: Inputs
    seed: int
    shape_name: str = ""
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
    probe: Annotated[ProbeKind, Meta(description="the probe that measured it, as in `--metrics`")]
    primary: Annotated[bool, Meta(description="whether this is the metric by which its probe is known in tables")]
    higher_is_better: Annotated[bool, Meta(description="whether a larger value is a better one")] = False
    task_options: Annotated[dict[str, Option], Meta(description="of the task and the training, complete")]
    facts: Annotated[
        dict[str, Option], Meta(description="what the rounds found out besides; where they differ, the last one's")
    ] = {}
    source: Annotated[str, Meta(description="hash of the plugin's source files")]
    environment: Annotated[str, Meta(description="key of the last round's environment in the journal")] = ""
    profile: Annotated[Profile, Meta(description="the protocol in one word")]
    threads: Annotated[int, Meta(description="threads of the CPU")]
    hot: Annotated[bool, Meta(description="CUDA: whether the L2 was left as it was between samples")]
    allocator: Annotated[str, Meta(description="C heap: default, or retained (never given back)")]


class Own(Struct, frozen=True, eq=False):
    """What a row shares with no other row of its question, which differ in their metric; fields as in Row."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    samples: int
    rounds: int
    noise: stats.Noise
    detail: str
    min: float | None
    p05: float | None
    p95: float | None
    iqr: float | None
    spread: float | None
    medians: dict[int, float]
    outliers: int
    flags: tuple[str, ...]
    primary: bool
    higher_is_better: bool


class Split(Struct, frozen=True, eq=False):
    """A row in two, of which the rows of a question have the greater in common: many make columns faster than rows do.

    In place of fields that are its own, the shared row has those of a case without a figure.
    """

    shared: Row
    own: Own

    @property
    def row(self) -> Row:
        """Give the whole row."""
        return replace(self.shared, **msgspec.structs.asdict(self.own))


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
    interrupted and the detail PENDING. Without `stray`, all records are that run's, and those of jobs that are not
    planned make no row. Rows come by metric, then by variant in the order of `planned` (else of the records), then by
    shape.
    """
    return [each.row for each in split_rows(records, planned, run=run, stray=stray)]


def split_rows(
    records: Sequence[Record], planned: Sequence[Job] = (), *, run: str = "", stray: bool = True
) -> list[Split]:
    """Give the same rows in two parts."""
    ranks: dict[tuple[str, str], int] = {}
    drafts: list[_Draft] = []
    for question in questions(records, planned, run=run or (records[0].run if records else ""), stray=stray):
        rank = ranks.setdefault(_identity(question.job.case), len(ranks))
        drafts += _drafts(question, rank)
    drafts.sort(key=lambda draft: draft.place)
    found = iter(described([list(draft.by_round.values()) for draft in drafts if draft.by_round]))
    return [
        Split(draft.base, _measured(draft, next(found)) if draft.by_round else _unmeasured(draft)) for draft in drafts
    ]


def split(row: Row) -> Split:
    """Take a row apart."""
    return Split(row, Own(*(getattr(row, name) for name in Own.__struct_fields__)))


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


def _unmeasured(draft: _Draft) -> Own:
    """Give what is a row's own in a question without any figure, or of one that a measured case lacks: its reason."""
    own = split(draft.base).own
    if draft.metric == draft.base.metric:
        return own
    return replace(own, metric=draft.metric, detail=str(draft.base.facts[draft.metric]), primary=False)


def _measured(draft: _Draft, found: Described) -> Own:
    """Give a metric's figures, one measurement for each process; none where a value was lost."""
    base, measurements = draft.base, list(draft.by_round.values())
    trained, repeated = base.probe == "accuracy", base.probe in _REPEATED
    estimate = stats.mean_over_seeds(found.samples.tolist()) if trained else found.estimate
    spread = found.spread if repeated else None
    whole = not found.lost
    lost = "" if whole else f"{found.lost} of {found.samples.size} values not finite"
    return Own(
        metric=draft.metric,
        value=estimate.value if whole else None,
        low=estimate.low if whole else None,
        high=estimate.high if whole else None,
        unit=found.unit,
        samples=found.samples.size,
        rounds=len(measurements),
        noise=stats.noise_verdict(spread) if whole else "",
        detail="; ".join(filter(None, (lost, base.detail))),
        min=found.pooled.min if whole else None,
        p05=found.pooled.p05 if whole else None,
        p95=found.pooled.p95 if whole else None,
        iqr=found.pooled.iqr if whole else None,
        spread=spread if whole else None,
        medians=dict(zip(draft.by_round, found.medians, strict=True)) if whole else {},
        outliers=found.outliers if whole else 0,
        flags=tuple(dict.fromkeys([*base.flags, *(flag for each in measurements for flag in each.flags)])),
        primary=draft.primary,
        higher_is_better=measurements[0].higher_is_better,
    )
