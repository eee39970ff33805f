"""The Pareto front: the variants that no other one beats without loss, as far as the figures can tell."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Literal

from msgspec import Struct

from attnbench.analysis.compare import Comparison, judged
from attnbench.analysis.floor import Floor, aa_floor, is_harness
from attnbench.analysis.match import Pair
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes, Dtype, Identity, Option, canonical
from attnbench.contracts.metrics import passes_of

Standing = Literal["", "front", "unsure", "dominated"]

OBJECTIVES = ("latency", "accuracy")
FIGURES = ("latency", "memory", "approximation_error", "accuracy")  # what a point has beside its objectives
_LEAST = 2  # of fewer there is nothing to choose
_ERROR = "approximation_error"
_EPSILON: dict[Dtype, float] = {"float64": 2**-52, "float32": 2**-23, "bfloat16": 2**-7, "float16": 2**-10}
_ROUNDINGS = 8  # epsilons of its dtype that an error may be from rounding alone: less of it is no merit

_Place = tuple[object, ...]


class Point(Struct, frozen=True, kw_only=True):
    """A variant's figures, and whether it is on the front; `rows` has them by metric, with the reason where one lacks.

    `by` are those that dominate it, or might where the standing is unsure. Without a figure for each objective a
    variant has no standing.
    """

    variant: str
    options: dict[str, Option]
    origin: str
    rows: dict[str, Row]
    standing: Standing = ""
    by: tuple[Identity, ...] = ()

    @property
    def identity(self) -> Identity:
        """The variant's identity, as of its rows."""
        return self.variant, canonical(self.options), self.origin


class Front(Struct, frozen=True, kw_only=True):
    """Variants that may be weighed against each other: timed at the same `axes`, trained on the same task.

    The trained model has lengths and heads of its own: those of its row, `exam`; null where no objective is a score.
    """

    run: str
    objectives: tuple[str, ...]
    axes: Axes
    exam: Row | None
    points: tuple[Point, ...]

    @property
    def ranked(self) -> int:
        """How many variants have a figure for each objective."""
        return sum(bool(point.standing) for point in self.points)


class _Relation(Struct, frozen=True):
    """How one figure stands to another: clearly better or worse, shown to be the same, or by the figures alone."""

    clear: int  # 1, -1, or 0 where neither is shown
    same: bool
    figures: int

    def turned(self) -> "_Relation":
        return _Relation(-self.clear, self.same, -self.figures)


def fronts(rows: Iterable[Row], objectives: Collection[str] = OBJECTIVES) -> list[Front]:
    """Find the front at each place of the sweep, and there for each task where an objective is a score.

    One variant dominates another if it is clearly better in one objective, and in each other one clearly better or
    shown to be the same; what is clear, the verdicts of `compare` say (tests by round or seed, beyond 1% and the A/A
    floor, all pairs of a place one family; counts differ from 1% on). Approximation errors within 8 epsilons of their
    dtype are the same. Where the figures alone say so, and no test the contrary, the standing is `unsure`: so it is for
    all that rests on fewer than 3 rounds or seeds. Any other variant is on the front.
    """
    known = [row for row in rows if not is_harness(row)]
    wanted = tuple(dict.fromkeys((*objectives, *FIGURES)))
    index = _indexed(row for row in known if row.metric in wanted)
    floors = {run: aa_floor(row for row in known if row.run == run) for run in {row.run for row in known}}
    found = (_front(each, tuple(objectives), floors) for each in _joined(known, index, objectives))
    return [front for front in found if front.ranked >= _LEAST]


def most_telling(found: Sequence[Front]) -> Front | None:
    """Choose the front that stands for all: of those that rank the most variants the longest, with the most heads.

    Then the one whose task is longest and has the most heads.
    """

    def size(front: Front) -> tuple[int, ...]:
        exam = (front.exam.case.shape.seq_q, front.exam.case.shape.heads) if front.exam else (0, 0)
        return front.ranked, *(int(front.axes[name] or 0) for name in ("seq_k", "seq_q", "heads")), *exam

    return max(found, key=size, default=None)


class _Cell(Struct, frozen=True):
    """What is known of all variants at one place, and of one task: rows by variant and metric."""

    axes: Axes
    exam: Row | None
    rows: dict[Identity, dict[str, Row]]


def _indexed(rows: Iterable[Row]) -> dict[_Place, dict[Identity, Row]]:
    """Find rows by place and metric, then by variant; of two for one cell the later one counts."""
    index: dict[_Place, dict[Identity, Row]] = {}
    for row in rows:
        index.setdefault((row.metric, *_place(row)), {})[row.identity] = row
    return index


def _joined(
    rows: Sequence[Row], index: dict[_Place, dict[Identity, Row]], objectives: Collection[str]
) -> Iterator[_Cell]:
    """Bring together what is timed, counted and computed at one place with the scores of each task."""
    by_metric = {row.metric: row for row in rows}
    scores = [name for name in by_metric if by_metric[name].probe.kind == "accuracy"]
    base = next((name for name in objectives if name in by_metric and name not in scores), None)
    if base is None or any(name not in by_metric for name in objectives):
        return
    exams: dict[_Place, Row] = {_place(row): row for row in rows if row.metric in scores and row.metric in objectives}
    for row in {_place(row): row for row in rows if row.metric == base}.values():
        costs = [name for name in by_metric if name not in scores]
        timed = {name: index.get((name, *_place(row, by_metric[name])), {}) for name in costs}
        for place, exam in exams.items() or [((), None)]:
            if exam is None or exam.run == row.run:
                each = timed | {name: index.get((name, *place), {}) for name in scores}
                yield _Cell(axes=row.case.axes(), exam=exam, rows=_by_variant(each, base))


def _by_variant(columns: dict[str, dict[Identity, Row]], base: str) -> dict[Identity, dict[str, Row]]:
    return {
        variant: {name: column[variant] for name, column in columns.items() if variant in column}
        for variant in columns[base]
    }


def _front(cell: _Cell, objectives: tuple[str, ...], floors: dict[str, Floor | None]) -> Front:
    ranked = {
        variant: rows
        for variant, rows in cell.rows.items()
        if all(name in rows and rows[name].value is not None for name in objectives)
    }
    run = next(row.run for rows in cell.rows.values() for row in rows.values())
    relations = _relations(ranked, objectives, floors[run])
    points = (_point(rows, relations.get(variant, {}), ranked=variant in ranked) for variant, rows in cell.rows.items())
    return Front(run=run, objectives=objectives, axes=cell.axes, exam=cell.exam, points=tuple(points))


def _relations(
    ranked: dict[Identity, dict[str, Row]], objectives: tuple[str, ...], floor: Floor | None
) -> dict[Identity, dict[Identity, list[_Relation]]]:
    """Compare all pairs in each objective, as one family: how each variant's rivals stand to it."""
    rivals: dict[Identity, dict[Identity, list[_Relation]]] = {variant: {} for variant in ranked}
    tested = [(one, other, name) for one, other in combinations(ranked, 2) for name in objectives]
    pairs = [Pair(metric=name, base=ranked[one][name], new=ranked[other][name]) for one, other, name in tested]
    verdicts = judged(pairs, [floor] if floor else [])
    for (one, other, _), pair, verdict in zip(tested, pairs, verdicts, strict=True):
        found = _relation(pair, verdict)
        rivals[one].setdefault(other, []).append(found)
        rivals[other].setdefault(one, []).append(found.turned())
    return rivals


def _relation(pair: Pair, found: Comparison) -> _Relation:
    """Say how the new figure of a pair stands to its base's."""
    gain = 1 if found.one.higher_is_better else -1
    base, new = found.base_value, found.new_value
    if base is None or new is None or base == new or _rounded(pair):
        return _Relation(0, same=True, figures=0)
    direction = {"faster": -1, "lower": -1, "slower": 1, "higher": 1}.get(found.verdict, 0)
    return _Relation(gain * direction, same=found.verdict == "same", figures=gain if new > base else -gain)


def _rounded(pair: Pair) -> bool:
    """Tell errors that both are rounding from those of an approximation."""
    limit = _ROUNDINGS * _EPSILON[pair.case.dtype]
    return pair.metric == _ERROR and all(row is not None and (row.value or 0) <= limit for row in (pair.base, pair.new))


def _point(rows: dict[str, Row], rivals: dict[Identity, list[_Relation]], *, ranked: bool) -> Point:
    one = next(iter(rows.values()))
    sure = tuple(other for other, relations in rivals.items() if _dominates(relations))
    likely = tuple(other for other, relations in rivals.items() if _may_dominate(relations))
    standing: Standing = "dominated" if sure else "unsure" if likely else "front"
    return Point(
        variant=one.case.variant,
        options=one.case.options,
        origin=one.origin.name,
        rows=rows,
        standing=standing if ranked else "",
        by=sure or likely,
    )


def _dominates(relations: Sequence[_Relation]) -> bool:
    return any(each.clear > 0 for each in relations) and all(each.clear > 0 or each.same for each in relations)


def _may_dominate(relations: Sequence[_Relation]) -> bool:
    """Tell whether by the figures alone a rival is at least as good in all, and better in one."""
    no_worse = all(each.clear >= 0 and (each.same or each.figures >= 0) for each in relations)
    return no_worse and any(each.figures > 0 and not each.same for each in relations)


def _place(row: Row, like: Row | None = None) -> _Place:
    """Give all by which a row's cell is known but its variant; of another probe's row at the same place with `like`."""
    case, probe = row.case, (like or row).probe
    passes = case.passes if probe.kind == row.probe.kind else passes_of(probe.metric, (case.passes,))[-1]
    return row.run, row.task, passes, *case.axes(without=("passes",)).values()
