"""Which variant for a workload, from rows that were measured: pure.

A row counts if all of its case but variant and length is what was asked for. What nothing supports is said to be not
measured; nobody is ranked by a guess.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.floor import is_harness
from attnbench.analysis.match import is_of
from attnbench.analysis.rows import Row
from attnbench.analysis.scores import Adaptation, Score, adaptations, overlap, scored, scores_of, task_of
from attnbench.answers.recommend.interpolation import Figure, Rows, figure_at
from attnbench.answers.recommend.needs import Bound, Needs, doubtful, failing
from attnbench.contracts.case import Case, Identity, Option, canonical
from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import ProbeKind, passes_of
from attnbench.contracts.record import PENDING, Status
from attnbench.contracts.specs import Spec

Verdict = Literal["meets", "fails", "unknown"]
METRICS: dict[ProbeKind, str] = {"latency": "latency", "memory": "memory", "agreement": "approximation_error"}
_SPENT: tuple[Status, ...] = ("oom_device", "oom_host", "timeout")
_FREE = ("seq_q", "seq_k", "passes", "shape_name", "seed")  # axes in which a row may differ from the workload


class Line(Struct, frozen=True, kw_only=True):
    """A variant, what is known of it, and whether that meets the needs.

    `why` says what it fails, or what is not measured; `doubts` what an interval leaves open. `rank` counts those that
    meet the needs from the fastest, 1; `tied` ones share a rank, as their intervals overlap with the first one's of it.
    """

    variant: str
    options: dict[str, Option]
    origin: str
    verdict: Verdict
    rank: int | None = None
    tied: bool = False
    why: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    lacks: tuple[ProbeKind, ...] = ()
    latency: Figure | None = None
    memory: Figure | None = None
    error: Figure | None = None
    score: Score | None = None

    @property
    def identity(self) -> Identity:
        """The variant's identity, as of its rows."""
        return self.variant, canonical(self.options), self.origin


class Recommendation(Struct, frozen=True, kw_only=True):
    """The lines: those that meet the needs by rank, then those that fail, then those of which too little is known.

    `heads_and_layers` are what tasks were trained with, where there is a choice. `elsewhere` says where rows have other
    axes than the workload, where none has all of its. `runs` are those whose rows were looked at, `measured_elsewhere`
    says of which machine or software they are if not this one's, and `left_out` which were not looked at, and why.
    """

    workload: Case
    needs: Needs
    lines: tuple[Line, ...]
    heads_and_layers: tuple[Adaptation, ...] = ()
    elsewhere: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    measured_elsewhere: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[Line, ...]:
        """The lines that meet the needs."""
        return tuple(line for line in self.lines if line.verdict == "meets")


class _Known(Struct):
    """All rows of one variant: those of the workload by probe and length, those of trainings, and failures."""

    row: Row
    by_probe: dict[ProbeKind, dict[int, Row]] = {}
    trained: list[Row] = []
    failed: list[Row] = []


def recommend(
    rows: Iterable[Row], workload: Case, needs: Needs, *, variants: Sequence[Spec] | None = None
) -> Recommendation:
    """Rank the variants of rows, the oldest run's first, for a workload: a case whose variant does not matter.

    Of two rows of one length the later counts; of two sources of a plugin the later alone. `variants` keeps the ones
    that it names. Raises UsageError where an accuracy is asked for and the task may be one of several.
    """
    rows = [row for row in rows if not is_harness(row) and _is_named(row, variants)]
    trainings = scored(rows, needs.task)
    _hold_to_one_task(trainings, needs)
    tried = [row for row in rows if _fits(row, workload)]
    lines = [_line(known, workload, needs) for known in _known(rows, tried, trainings)]
    lines += [_missing(spec, needs) for spec in variants or () if not any(is_of(row, spec) for row in rows)]
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


def _is_named(row: Row, variants: Sequence[Spec] | None) -> bool:
    return variants is None or any(is_of(row, spec) for spec in variants)


def _hold_to_one_task(trainings: Sequence[Row], needs: Needs) -> None:
    tasks = list(dict.fromkeys(map(task_of, trainings)))
    if len(tasks) > 1 and needs.min_accuracy is not None:
        raise UsageError(f"--task: accuracy may be that on {' or '.join(tasks)}; name one, with its options")


def _fits(row: Row, workload: Case) -> bool:
    """Tell whether a row is of the workload, at whatever length."""
    if row.probe.kind not in METRICS or row.case.passes != passes_of(row.probe.metric, [workload.passes])[-1]:
        return False
    square = (row.case.shape.seq_q == row.case.shape.seq_k) == (workload.shape.seq_q == workload.shape.seq_k)
    same = row.case.axes(without=_FREE) == workload.axes(without=_FREE)
    return same and (row.case.passes == "decode" or square)


def _known(rows: Sequence[Row], tried: Sequence[Row], trainings: Sequence[Row]) -> list[_Known]:
    """Sort rows by variant, and leave out those of a source that a later run no longer had."""
    sources = {row.case.identity: row.origin.source_hash for row in rows}
    found: dict[tuple[str, str], _Known] = {}
    for row in (*tried, *trainings):
        if row.origin.source_hash != sources[row.case.identity]:
            continue
        known = found.setdefault(row.case.identity, _Known(row))
        if row.probe.kind == "accuracy":
            known.trained.append(row)
        elif row.value is None:
            known.failed.append(row)
        elif row.metric == METRICS[row.probe.kind]:
            known.by_probe.setdefault(row.probe.kind, {})[row.case.length] = row
    return list(found.values())


def _line(known: _Known, workload: Case, needs: Needs) -> Line:
    figures = {
        probe: figure_at(rows, workload.length, carry=probe != "agreement")
        for probe, rows in known.by_probe.items()
        if _same_keys(rows, workload)
    }
    trained = scores_of(known.trained)
    line = Line(
        variant=known.row.case.variant,
        options=known.row.case.options,
        origin=known.row.origin.name,
        verdict="meets",
        latency=figures.get("latency"),
        memory=figures.get("memory"),
        error=figures.get("agreement"),
        score=trained[0] if len({task_of(row) for row in known.trained}) == 1 else None,
    )
    return _judged(line, needs, reasons={probe: _reason(known.failed, probe, workload) for probe in METRICS})


def _same_keys(rows: Rows, workload: Case) -> bool:
    """Tell whether rows that are not square have as many keys as the workload."""
    shape = workload.shape
    square = workload.passes == "decode" or shape.seq_q == shape.seq_k
    return square or all(row.case.shape.seq_k == shape.seq_k for row in rows.values())


def _reason(failed: Iterable[Row], probe: ProbeKind, workload: Case) -> str:
    """Say why a probe has no figure here: it failed at this length, or is known to fail at it."""
    length = workload.length
    told = [row for row in failed if row.probe.kind == probe and row.detail != PENDING]
    for row in sorted(told, key=lambda row: row.case.length):
        at = row.case.length
        if at == length or row.status == "unsupported" or (row.status in _SPENT and at < length):
            where = "" if row.status == "unsupported" else f" at {at}"
            return f"{row.status.replace('_', ' ')}{where}: {row.detail}"
    return ""


def _judged(line: Line, needs: Needs, *, reasons: dict[ProbeKind, str]) -> Line:
    """Hold a line to the needs."""
    fails: list[str] = []
    doubts: list[str] = []
    unknown: list[str] = []
    lacks: list[ProbeKind] = []
    for bound in _bounds(line, needs):
        if bound.found is not None:
            fails += failing(bound)
            doubts += doubtful(bound)
        elif reasons.get(bound.probe):
            fails.append(reasons[bound.probe])
        else:
            unknown.append(f"{bound.what} not measured")
            lacks.append(bound.probe)
    verdict: Verdict = "fails" if fails else "unknown" if unknown else "meets"
    why = tuple(dict.fromkeys(fails or unknown))
    return replace(line, verdict=verdict, why=why, doubts=tuple(doubts), lacks=() if fails else tuple(lacks))


def _bounds(line: Line, needs: Needs) -> Iterator[Bound]:
    """Give what is looked at: the latency, by which lines are ranked, in any case."""
    yield Bound(probe="latency", what="latency", found=line.latency, bound=needs.max_latency_s, unit="s")
    if needs.memory_bytes is not None:
        yield Bound(probe="memory", what="memory", found=line.memory, bound=needs.memory_bytes, unit="bytes")
    if needs.max_error is not None:
        yield Bound(probe="agreement", what="error", found=line.error, bound=needs.max_error, unit="1")
    if needs.min_accuracy is not None:
        accuracy = f"accuracy on {needs.task}" if needs.task else "accuracy"
        yield Bound(
            probe="accuracy", what=accuracy, found=line.score, bound=needs.min_accuracy, unit="1", at_least=True
        )


def _missing(spec: Spec, needs: Needs) -> Line:
    """Give the line of a variant that no row is of."""
    line = Line(variant=spec.name, options=dict(spec.options), origin="", verdict="unknown")
    return _judged(line, needs, reasons={})


def _ranked(lines: Iterable[Line]) -> Iterator[Line]:
    """Rank lines by latency; a rank goes to all whose intervals overlap with its first one's."""
    groups: list[list[Line]] = []
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
    """Say in which axes no row has what was asked for, and what they have."""
    asked, timed = workload.axes(), [row.case.axes() for row in rows if row.probe.kind == "latency"]
    for name in (*workload.axes(without=_FREE), "passes") if timed else ():
        has = {case[name] for case in timed}
        if asked[name] not in has:
            told = ", ".join(sorted(str(value) for value in has))
            yield f"{name.replace('_', ' ')} {asked[name]} (measured: {told})"
