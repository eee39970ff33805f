"""A ranking of variants for a workload, from rows that were measured.

A row counts if its case agrees with the workload in all but the variant and the length. What no row supports is
reported as not measured; no variant is ranked by a guess.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from attnbench.analysis.held import TOTAL
from attnbench.analysis.match import is_of
from attnbench.analysis.regime import is_quality, refusal
from attnbench.analysis.rows import Row
from attnbench.analysis.scores import Adaptation, Score, adaptations, overlap, scored, scores_of, task_of
from attnbench.analysis.variant import Variant
from attnbench.answers.recommend.interpolation import LengthEstimate, Rows, estimate_at
from attnbench.answers.recommend.needs import Bound, Needs, doubtful, failing
from attnbench.contracts.case import DRAWN, Case
from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import ProbeKind, passes_of
from attnbench.contracts.record import PENDING, Status
from attnbench.contracts.specs import Spec

Verdict = Literal["meets", "fails", "unknown"]
METRICS: dict[ProbeKind, str] = {"latency": "latency", "memory": "memory", "agreement": "approximation_error"}
_EXHAUSTED: tuple[Status, ...] = ("oom_device", "oom_host", "timeout")
_FREE = ("seq_q", "seq_k", "passes", "shape_name", "seed")  # axes in which a row may differ from the workload


class Assessment(Variant, frozen=True, kw_only=True):
    """A variant's estimates, and whether they meet the needs.

    `why` names the needs that it fails, or what is not measured; `doubts` what an interval leaves open. `rank` is 1 for
    the fastest that meets the needs; `tied` ones share a rank, as their intervals overlap with that of its first.
    `flattered` are reasons why its error or its score does not count at the workload's length, where it sees fewer of
    the keys, by probe.
    """

    verdict: Verdict
    rank: int | None = None
    tied: bool = False
    why: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    lacks: tuple[ProbeKind, ...] = ()
    latency: LengthEstimate | None = None
    memory: LengthEstimate | None = None
    error: LengthEstimate | None = None
    score: Score | None = None
    flattered: dict[ProbeKind, str] = field(default_factory=dict)


class Recommendation(Struct, frozen=True, kw_only=True):
    """The variants that meet the needs by rank, then those that fail, then those of which too little is measured.

    `heads_and_layers` compares numbers of heads and layers on a task. `elsewhere` names the axes in which no row agrees
    with the workload, where none agrees in all. `runs` are those whose rows count; `measured_elsewhere` names their
    machine or software where that is not this one's, and `left_out` the runs that do not count, with reasons.
    """

    workload: Case
    needs: Needs
    lines: tuple[Assessment, ...]
    heads_and_layers: tuple[Adaptation, ...] = ()
    elsewhere: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    measured_elsewhere: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[Assessment, ...]:
        """The variants that meet the needs."""
        return tuple(line for line in self.lines if line.verdict == "meets")


class _VariantRows(Struct):
    """The rows of one variant: the workload's by probe and length, failed ones too, and those of trainings.

    `captured` is its latest error on inputs of a model, at a length of their own.
    """

    row: Row
    by_probe: dict[ProbeKind, dict[int, Row]] = {}
    captured: Row | None = None
    trained: list[Row] = []

    def failed(self, probe: ProbeKind) -> list[Row]:
        """Return the rows of a probe that failed, the shortest first."""
        rows = self.by_probe.get(probe, {})
        return [rows[length] for length in sorted(rows) if rows[length].value is None]


def recommend(
    rows: Iterable[Row], workload: Case, needs: Needs, *, variants: Sequence[Spec] | None = None
) -> Recommendation:
    """Rank the variants of rows, the oldest run's first, for a workload: a case whose variant does not matter.

    Of two rows of one length the later counts, of a call's peak and the total memory the total; of two sources of a
    plugin the later alone. `variants` limits the ranking. Raises UsageError where an accuracy is asked for and several
    tasks have one.
    """
    rows = [row for row in rows if not (row.is_harness or _only_judged(row)) and _is_named(row, variants)]
    trainings = scored(rows, needs.task)
    _check_one_task(trainings, needs)
    tried = [row for row in rows if _fits(row, workload)]
    lines = [_assessment(of_variant, workload, needs) for of_variant in _by_variant(rows, tried, trainings)]
    lines += [_unmeasured(spec, needs) for spec in variants or () if not any(is_of(row, spec) for row in rows)]
    return Recommendation(
        workload=workload,
        needs=needs,
        lines=(
            *_ranked(line for line in lines if line.verdict == "meets"),
            *(line for line in lines if line.verdict == "fails"),
            *(line for line in lines if line.verdict == "unknown"),
        ),
        heads_and_layers=tuple(adaptations(trainings)),
        elsewhere=() if tried else tuple(_elsewhere(rows, workload)),
    )


def _only_judged(row: Row) -> bool:
    """Return whether a row is that of the floor of a quality, which nobody asked for."""
    return row.is_floor and is_quality(row)


def _is_named(row: Row, variants: Sequence[Spec] | None) -> bool:
    return variants is None or any(is_of(row, spec) for spec in variants)


def _check_one_task(trainings: Sequence[Row], needs: Needs) -> None:
    tasks = list(dict.fromkeys(map(task_of, trainings)))
    if len(tasks) > 1 and needs.min_accuracy is not None:
        raise UsageError(f"--task: accuracy may be that on {' or '.join(tasks)}; name one, with its options")


def _fits(row: Row, workload: Case) -> bool:
    """Return whether a row agrees with the workload, at any length."""
    if _is_captured(row, workload):
        return True
    if row.probe.kind not in METRICS or row.case.passes != passes_of(row.probe.metric, [workload.passes])[-1]:
        return False
    square = (row.case.shape.seq_q == row.case.shape.seq_k) == (workload.shape.seq_q == workload.shape.seq_k)
    same = row.case.axes(without=_FREE) == workload.axes(without=_FREE)
    return same and (row.case.passes == "decode" or square)


def _is_captured(row: Row, workload: Case) -> bool:
    """Return whether a row is an error on captured inputs under the workload's mask."""
    same = (row.case.mask, row.case.dtype, row.case.device) == (workload.mask, workload.dtype, workload.device)
    is_error = row.metric == METRICS["agreement"] and row.case.passes == passes_of(row.about, [workload.passes])[0]
    return same and is_error and row.case.inputs not in DRAWN and workload.inputs in DRAWN


def _by_variant(rows: Sequence[Row], tried: Sequence[Row], trainings: Sequence[Row]) -> list[_VariantRows]:
    """Return the rows of each variant, without those of a source that a later run no longer has."""
    sources = {row.case.identity: row.origin.sources for row in rows}
    variants: dict[tuple[str, str], _VariantRows] = {}
    for row in (*tried, *trainings):
        if row.origin.sources != sources[row.case.identity]:
            continue
        of_variant = variants.setdefault(row.case.identity, _VariantRows(row))
        if row.probe.kind == "accuracy":
            of_variant.trained.append(row)
        elif row.case.inputs not in DRAWN:
            of_variant.captured = row if row.value is not None else of_variant.captured
        elif row.metric in (METRICS[row.probe.kind], TOTAL) and row.detail != PENDING:
            by_length = of_variant.by_probe.setdefault(row.probe.kind, {})
            if row.value is not None or row.has_failed or row.case.length not in by_length:
                by_length[row.case.length] = row
    return list(variants.values())


def _assessment(of_variant: _VariantRows, workload: Case, needs: Needs) -> Assessment:
    estimates = {
        probe: estimate_at(rows, workload.length, extrapolate=probe != "agreement")
        for probe, rows in of_variant.by_probe.items()
        if _has_same_keys(rows, workload)
    }
    captured, trained = of_variant.captured, scores_of(of_variant.trained)
    scored_on_one = len({task_of(row) for row in of_variant.trained}) == 1
    judged: dict[ProbeKind, Row] = {"accuracy": of_variant.trained[-1]} if scored_on_one else {}
    if captured is not None:
        length = captured.case.length
        estimates["agreement"] = estimate_at({length: captured}, length, extrapolate=False)
        judged["agreement"] = captured
    line = Assessment(
        variant=of_variant.row.case.variant,
        options=of_variant.row.case.options,
        origin=of_variant.row.origin.name,
        verdict="meets",
        latency=estimates.get("latency"),
        memory=estimates.get("memory"),
        error=estimates.get("agreement"),
        score=trained[0] if scored_on_one else None,
        flattered=_flattered(of_variant, judged, workload),
    )
    failed = {probe: of_variant.failed(probe) for probe in METRICS}
    return _judged(
        line,
        needs,
        reasons={probe: _reason(rows, workload) for probe, rows in failed.items()},
        broken={probe: _told(_nearest(rows, workload.length)) for probe, rows in failed.items() if rows},
    )


def _flattered(of_variant: _VariantRows, judged: Mapping[ProbeKind, Row], workload: Case) -> dict[ProbeKind, str]:
    """Return why qualities do not count at the workload's length, by probe; nothing where nothing was timed."""
    timed = {length: row for length, row in of_variant.by_probe.get("latency", {}).items() if row.value is not None}
    if not timed:
        return {}
    beyond = [length for length in timed if length >= workload.length]
    cost = timed[min(beyond) if beyond else max(timed)]
    reasons = {probe: refusal(cost, row) for probe, row in judged.items()}
    return {probe: why.reason for probe, why in reasons.items() if why is not None}


def _has_same_keys(rows: Rows, workload: Case) -> bool:
    """Return whether rows of cross-attention have the workload's number of keys."""
    shape = workload.shape
    square = workload.passes == "decode" or shape.seq_q == shape.seq_k
    return square or all(row.case.shape.seq_k == shape.seq_k for row in rows.values())


def _reason(failed: Iterable[Row], workload: Case) -> str:
    """Return why a probe has no value at the workload's length: it failed there, or fails from a shorter one on."""
    length = workload.length
    for row in failed:
        at = row.case.length
        if at == length or row.status == "unsupported" or (row.status in _EXHAUSTED and at < length):
            return _told(row)
    return ""


def _nearest(rows: Iterable[Row], length: int) -> Row:
    return min(rows, key=lambda row: abs(math.log(row.case.length / length)))


def _told(row: Row) -> str:
    """Return what a failed row reports, and at which length unless it is refused everywhere."""
    where = "" if row.status == "unsupported" else f" at {row.case.length}"
    status = "no value" if row.status == "ok" else row.status.replace("_", " ")
    return f"{status}{where}: {row.detail}"


def _judged(
    line: Assessment, needs: Needs, *, reasons: Mapping[ProbeKind, str], broken: Mapping[ProbeKind, str]
) -> Assessment:
    """Complete an assessment with its verdict.

    `reasons` are those why a probe has no value at the workload's length, `broken` the failure nearest to that length.
    """
    fails: list[str] = []
    doubts: list[str] = []
    unknown: list[str] = []
    lacks: list[ProbeKind] = []
    for bound in _bounds(line, needs):
        if bound.value is not None:
            missed = [*failing(bound)]
            fails += missed
            doubts += doubtful(bound)
            if bound.probe in line.flattered and bound.bound is not None and not missed:
                unknown.append(f"{bound.what} is not known at this length: {line.flattered[bound.probe]}")
                lacks += [bound.probe] if bound.probe == "accuracy" else []
        elif reasons.get(bound.probe):
            fails.append(reasons[bound.probe])
        else:
            failure = broken.get(bound.probe)
            unknown.append(f"{bound.what} not measured{f', and it failed nearby: {failure}' if failure else ''}")
            lacks.append(bound.probe)
    verdict: Verdict = "fails" if fails else "unknown" if unknown else "meets"
    why = tuple(dict.fromkeys(fails or unknown))
    return replace(line, verdict=verdict, why=why, doubts=tuple(doubts), lacks=() if fails else tuple(lacks))


def _bounds(line: Assessment, needs: Needs) -> Iterator[Bound]:
    """Yield the bounds to check; that of latency, by which variants are ranked, in any case."""
    yield Bound(probe="latency", what="latency", value=line.latency, bound=needs.max_latency_s, unit="s")
    if needs.memory_bytes is not None:
        yield Bound(probe="memory", what="memory", value=line.memory, bound=needs.memory_bytes, unit="bytes")
    if needs.max_error is not None:
        yield Bound(probe="agreement", what="error", value=line.error, bound=needs.max_error, unit="1")
    if needs.min_accuracy is not None:
        accuracy = f"accuracy on {needs.task}" if needs.task else "accuracy"
        yield Bound(
            probe="accuracy", what=accuracy, value=line.score, bound=needs.min_accuracy, unit="1", at_least=True
        )


def _unmeasured(spec: Spec, needs: Needs) -> Assessment:
    """Return the assessment of a variant without rows."""
    line = Assessment(variant=spec.name, options=dict(spec.options), origin="", verdict="unknown")
    return _judged(line, needs, reasons={}, broken={})


def _ranked(lines: Iterable[Assessment]) -> Iterator[Assessment]:
    """Rank variants by latency; all whose intervals overlap with that of a rank's first share the rank."""
    groups: list[list[Assessment]] = []
    for line in sorted(lines, key=lambda line: line.latency.value if line.latency else 0):
        assert line.latency is not None
        first = groups[-1][0].latency if groups else None
        if first is not None and overlap(first, line.latency):
            groups[-1].append(line)
        else:
            groups.append([line])
    rank = 1
    for group in groups:
        yield from (replace(line, rank=rank, tied=len(group) > 1) for line in group)
        rank += len(group)


def _elsewhere(rows: Sequence[Row], workload: Case) -> Iterator[str]:
    """Yield the axes in which no row agrees with the workload, with the values that rows have."""
    wanted, timed = workload.axes(), [row.case.axes() for row in rows if row.probe.kind == "latency"]
    for name in (*workload.axes(without=_FREE), "passes") if timed else ():
        values = {axes[name] for axes in timed}
        if wanted[name] not in values:
            yield f"{name.replace('_', ' ')} {wanted[name]} (measured: {', '.join(sorted(map(str, values)))})"
