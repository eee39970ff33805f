"""The tidy rows: one per question and metric, every statistic derived from the raw records by pure functions.

Tables, exports, comparisons and fits are made from rows and from nothing else.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from attnbench.analysis.columns import ByRound, Column, Columns, Places, Words
from attnbench.analysis.questions import ENOUGH, PENDING, Question, ToldByRound, by_metric, facts_of, questions, verdict
from attnbench.analysis.samples import Described, Samples
from attnbench.contracts import stats
from attnbench.contracts.case import Case, Dtype, Inputs, Level, Mask, Option, Passes, Shape
from attnbench.contracts.record import PRIMARY_METRIC, Entry, Job, Measurement, ProbeKind, Profile, Status
from attnbench.contracts.stats import FloatArray
from attnbench.contracts.text import canonical_each

__all__ = ["ENOUGH", "PENDING", "TWIN", "Row", "case_of", "rows", "tabulated"]

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


class _Draft(Struct, eq=False):
    """A row to be: that of a question by its number, of a metric; its figure by its number.

    Without a figure (-1), it has what its question's base has.
    """

    question: int
    metric: str
    primary: bool
    figure: int = -1


def rows(records: Sequence[Entry], planned: Sequence[Job] = (), *, run: str = "", stray: bool = True) -> list[Row]:
    """Summarise records: one row per question and metric, over its rounds; one for a question without a figure.

    A job of `planned`, the jobs of `run` (default: the records' own), whose question has no record is a row with status
    interrupted and the detail PENDING. Without `stray`, all records are that run's, and those of jobs that are not
    planned make no row. Rows come by metric, then by variant in the order of `planned` (else of the records), then by
    shape.
    """
    return tabulated(records, planned, run=run, stray=stray).rows()


def tabulated(
    records: Sequence[Entry],
    planned: Sequence[Job] = (),
    *,
    run: str = "",
    stray: bool = True,
    places: Sequence[int] = (),
) -> Columns[Row]:
    """Give the same rows as columns: those of a question share all but their figures.

    `places` say which of `planned` ask the same, as a plan knows it.
    """
    bases: list[Row] = []
    drafts: list[_Draft] = []
    samples = Samples()
    run = run or (records[0].run if records else "")
    for question in questions(records, planned, run=run, stray=stray, places=places):
        base, measured = _told(question)
        drafts += _drafts(base, measured, samples, question=len(bases))
        bases.append(base)
    whose = np.array([draft.question for draft in drafts], dtype=np.int64)
    own = _own(bases, whose, drafts, samples.described())
    return Columns(bases, whose, own).take(_order(bases, whose, drafts))


def _order(bases: Sequence[Row], whose: Places, drafts: Sequence[_Draft]) -> Places:
    """Say in which order rows come: those of a metric by their cases."""
    options = canonical_each([base.options for base in bases])
    variants = Words.of(zip([base.variant for base in bases], options, strict=True)).places.tolist()
    cases = [_place_among_cases(*each) for each in zip(bases, variants, strict=True)]
    kinds = Words.of((bases[draft.question].probe, draft.metric) for draft in drafts)
    ranks = _ranks([(_KINDS[kind], _PLACES.get(metric, len(_PLACES)), metric) for kind, metric in kinds.words])
    order: Places = np.lexsort((_ranks(cases)[whose], ranks[kinds.places]))
    return order


def _ranks(places: Sequence[tuple[object, ...]]) -> Places:
    """Say at which place each comes."""
    ranks = np.empty(len(places), dtype=np.int64)
    ranks[sorted(range(len(places)), key=places.__getitem__)] = np.arange(len(places))
    return ranks


def case_of(row: Row) -> Case:
    """Give the case that a row is of."""
    whole = {name: getattr(row, name) for name in Case.__struct_fields__ if name not in ("shape", "mask")}
    shape, mask = ({name: getattr(row, name) for name in part.__struct_fields__} for part in (Shape, Mask))
    return Case(shape=Shape(**shape), mask=Mask(**mask), **whole)


def _told(question: Question) -> tuple[Row, dict[str, dict[int, Measurement]]]:
    """Give what a question's rows have in common, and the measurements of each metric. Its records are read here."""
    records = question.told()
    good = {number: record for number, record in records.items() if record.outcome.status == "ok"}
    measured = by_metric(good)
    if question.job.probe.twin:
        measured = {metric + TWIN: by_round for metric, by_round in measured.items()}
    return _base(question, records, good, measured=bool(measured)), measured


def _drafts(
    base: Row, measured: dict[str, dict[int, Measurement]], samples: Samples, *, question: int
) -> Iterator[_Draft]:
    known = base.metric if base.metric in measured else next(iter(measured), base.metric)
    for metric, by_round in measured.items():
        yield _Draft(question, metric, base.primary and metric == known, samples.add(by_round))
    lacking = [metric for metric in _MAY_LACK if measured and metric in base.facts and metric not in measured]
    for metric in lacking or [base.metric] * (not measured):
        yield _Draft(question, metric, base.primary and metric == known)


def _place_among_cases(row: Row, rank: int) -> tuple[object, ...]:
    shape = (row.heads, row.kv_heads, row.seq_q, row.seq_k, row.head_dim, row.batch)
    mask = (row.causal, row.window or 0)
    where = (row.dtype, row.device, row.inputs, row.seed)
    return rank, _PASSES.index(row.passes), row.level, row.task, *shape, *mask, *where


def _base(question: Question, records: ToldByRound, good: ToldByRound, *, measured: bool) -> Row:
    """Make the row as it stands without figures: it is what a failed or pending job has."""
    job, probe, protocol = question.job, question.job.probe, question.job.protocol
    case, shape, mask = job.case, job.case.shape, job.case.mask
    status, detail = verdict(records, good, measured=measured)
    telling = list((good or records).values())
    backends = {record.outcome.backend: None for record in telling if record.outcome.backend}
    facts = facts_of(telling)
    diverged = "diverged" in facts and any(record.outcome.facts.get("diverged") for record in good.values())
    return Row(
        run=question.run,
        variant=case.variant,
        options=case.options,
        origin=str(job.origin),
        metric=probe.metric + TWIN * probe.twin,
        passes=case.passes,
        level=case.level,
        task=probe.label,
        seq_q=shape.seq_q,
        seq_k=shape.seq_k,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        batch=shape.batch,
        dtype=case.dtype,
        device=case.device,
        causal=mask.causal,
        window=mask.window,
        status=status,
        unit=_UNIT_OF_PROBE[probe.kind],
        rounds=len(good),
        backend=", ".join(backends),
        detail=detail,
        inputs=case.inputs,
        seed=case.seed,
        shape_name=case.shape_name,
        flags=("diverged",) * diverged,
        probe=probe.kind,
        primary=probe.primary,
        task_options=probe.task_options,
        facts=facts,
        source=job.origin.source_hash,
        environment=telling[-1].environment if telling else "",
        profile=protocol.profile,
        threads=protocol.threads,
        hot=protocol.hot,
        allocator=protocol.allocator,
    )


def _own(bases: Sequence[Row], whose: Places, drafts: Sequence[_Draft], found: Described) -> dict[str, Column]:
    """Give the columns in which rows of a question differ: figures, one measurement for each process.

    `whose` are the questions of the drafts. Where a value was lost there is no figure, and in a question without any it
    is the base row that says why.
    """
    figures = np.array([draft.figure for draft in drafts], dtype=np.int64)
    kinds, units, flags = (
        Words.of(getattr(base, name) for base in bases).take(whose) for name in ("probe", "unit", "flags")
    )
    rounds = np.array([base.rounds for base in bases], dtype=np.int64)[whose]
    value, low, high = _estimates(kinds, figures, found).T
    least, p05, p25, _, p75, p95 = found.quantiles_F6[figures].T
    spread = np.where(kinds.are(*_REPEATED), found.spread_F[figures], np.nan)
    return {
        "metric": Words.of(draft.metric for draft in drafts),
        "value": value,
        "low": low,
        "high": high,
        "unit": Words.combined(lambda unit, base: unit or base, found.units.take(figures), units),
        "samples": found.counts[figures],
        "rounds": np.where(figures < 0, rounds, found.processes[figures]),
        "noise": Words(stats.NOISES, stats.noise_verdicts(spread)),
        "detail": _details(bases, drafts, figures, found),
        "min": least,
        "p05": p05,
        "p95": p95,
        "iqr": p75 - p25,
        "spread": spread,
        "medians": ByRound(found.medians.rounds, found.medians.values_NR[figures]),
        "outliers": found.outliers[figures],
        "flags": Words.combined(lambda *each: tuple(dict.fromkeys(chain(*each))), flags, found.flags.take(figures)),
        "primary": np.array([draft.primary for draft in drafts], dtype=np.bool_),
        "higher_is_better": found.higher[figures],
    }


def _estimates(kinds: Words, figures: Places, found: Described) -> FloatArray:
    """Give values with their intervals; a training's are no repetitions of one another, but seeds."""
    estimates = found.estimates_F3[figures]
    for row in np.flatnonzero(kinds.are("accuracy") & (figures >= 0) & (found.lost[figures] == 0)):
        mean = stats.mean_over_seeds(found.of(figures[row]))
        estimates[row] = [math.nan if x is None else x for x in (mean.value, mean.low, mean.high)]
    return estimates


def _details(bases: Sequence[Row], drafts: Sequence[_Draft], figures: Places, found: Described) -> Words:
    """Say of each row why there is no figure, or what a figure lacks."""
    details = [bases[draft.question].detail for draft in drafts]
    lost = found.lost[figures]
    for row in np.flatnonzero((figures < 0) | (lost > 0)).tolist():
        base, metric = bases[drafts[row].question], drafts[row].metric
        if lost[row]:
            gone = f"{lost[row]} of {found.counts[figures[row]]} values not finite"
            details[row] = "; ".join(filter(None, (gone, base.detail)))
        elif metric != base.metric:
            details[row] = str(base.facts[metric])
    return Words.of(details)
