"""The Pareto front: the variants that no other one beats without a loss elsewhere, as far as tests tell."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Literal

from msgspec import Struct

from attnbench.analysis.aa_floor import Floor, aa_floor
from attnbench.analysis.compare import Comparison, compare_pairs
from attnbench.analysis.match import Pair
from attnbench.analysis.rows import Row
from attnbench.analysis.variant import Variant
from attnbench.contracts.case import Axes, Dtype, Identity
from attnbench.contracts.metrics import passes_of

Standing = Literal["", "front", "unsure", "dominated"]

OBJECTIVES = ("latency", "accuracy")
METRICS = ("latency", "memory", "approximation_error", "accuracy")  # that a point has besides its objectives
_FEWEST_RANKED = 2  # a front of fewer offers no choice
_ERROR = "approximation_error"
_EPSILON: dict[Dtype, float] = {"float64": 2**-52, "float32": 2**-23, "bfloat16": 2**-7, "float16": 2**-10}
_ROUNDINGS = 8  # epsilons of its dtype that an error may have from rounding alone

_Key = tuple[object, ...]
_ByVariant = dict[Identity, dict[str, Row]]  # rows by variant and metric


class ParetoPoint(Variant, frozen=True, kw_only=True):
    """A variant and its standing; `rows` are by metric, and name the reason where one has no value.

    `by` are the variants that dominate it, or might where the standing is unsure. A variant without a value for each
    objective has no standing.
    """

    rows: dict[str, Row]
    standing: Standing = ""
    by: tuple[Identity, ...] = ()


class Front(Struct, frozen=True, kw_only=True):
    """Variants that can be weighed against each other: timed at the same `axes`, trained on the same task.

    The trained model has lengths and heads of its own: those of its row, `exam`; null where no objective is a score.
    """

    run: str
    objectives: tuple[str, ...]
    axes: Axes
    exam: Row | None
    points: tuple[ParetoPoint, ...]

    @property
    def ranked(self) -> int:
        """The number of variants with a value for each objective."""
        return sum(bool(point.standing) for point in self.points)


class _Relation(Struct, frozen=True):
    """How one value compares with another: by tests, as shown to be the same, and by the values alone."""

    clear: int  # 1 clearly better, -1 clearly worse, 0 neither is shown
    same: bool
    by_value: int

    def reversed(self) -> "_Relation":
        return _Relation(-self.clear, self.same, -self.by_value)


def fronts(rows: Iterable[Row], objectives: Collection[str] = OBJECTIVES) -> list[Front]:
    """Return the front for each set of axes, and for each task where an objective is a score.

    One variant dominates another if it is clearly better in one objective, and in each other one clearly better or
    shown to be the same. The verdicts of `compare` decide what is clear (tests by round or seed, beyond 1% and the A/A
    floor, all pairs of a front one family; counts differ from 1% on). Approximation errors within 8 epsilons of their
    dtype are the same. Where only the values say so, and no test the contrary, the standing is `unsure`; so it is for
    everything that rests on fewer than 3 rounds or seeds. Any other variant is on the front.
    """
    of_variants = [row for row in rows if not row.is_harness]
    wanted = tuple(dict.fromkeys((*objectives, *METRICS)))
    index = _indexed(row for row in of_variants if row.metric in wanted)
    runs = {row.run for row in of_variants}
    floors = {run: aa_floor(row for row in of_variants if row.run == run) for run in runs}
    of_settings = (_front(setting, tuple(objectives), floors) for setting in _settings(of_variants, index, objectives))
    return [front for front in of_settings if front.ranked >= _FEWEST_RANKED]


def most_telling(several: Sequence[Front]) -> Front | None:
    """Return the front that represents all: of those that rank the most variants, the longest with the most heads.

    Between equals, the one whose task is longest and has the most heads.
    """

    def size(front: Front) -> tuple[int, ...]:
        exam = (front.exam.case.shape.seq_q, front.exam.case.shape.heads) if front.exam else (0, 0)
        return front.ranked, *(int(front.axes[name] or 0) for name in ("seq_k", "seq_q", "heads")), *exam

    return max(several, key=size, default=None)


class _Setting(Struct, frozen=True):
    """The rows of all variants at one set of axes, and of one task."""

    axes: Axes
    exam: Row | None
    rows: _ByVariant


def _indexed(rows: Iterable[Row]) -> dict[_Key, dict[Identity, Row]]:
    """Return rows by metric and axes, then by variant; of two rows the later one counts."""
    index: dict[_Key, dict[Identity, Row]] = {}
    for row in rows:
        index.setdefault((row.metric, *_key(row)), {})[row.identity] = row
    return index


def _settings(
    rows: Sequence[Row], index: dict[_Key, dict[Identity, Row]], objectives: Collection[str]
) -> Iterator[_Setting]:
    """Yield what is timed, counted and computed at one set of axes, with the scores of each task."""
    by_metric = {row.metric: row for row in rows}
    scores = [name for name in by_metric if by_metric[name].probe.kind == "accuracy"]
    base = next((name for name in objectives if name in by_metric and name not in scores), None)
    if base is None or any(name not in by_metric for name in objectives):
        return
    exams: dict[_Key, Row] = {_key(row): row for row in rows if row.metric in scores and row.metric in objectives}
    for row in {_key(row): row for row in rows if row.metric == base}.values():
        costs = [name for name in by_metric if name not in scores]
        timed = {name: index.get((name, *_key(row, by_metric[name])), {}) for name in costs}
        for key, exam in exams.items() or [((), None)]:
            if exam is None or exam.run == row.run:
                columns = timed | {name: index.get((name, *key), {}) for name in scores}
                yield _Setting(axes=row.case.axes(), exam=exam, rows=_by_variant(columns, base))


def _by_variant(columns: dict[str, dict[Identity, Row]], base: str) -> _ByVariant:
    return {
        variant: {name: column[variant] for name, column in columns.items() if variant in column}
        for variant in columns[base]
    }


def _front(setting: _Setting, objectives: tuple[str, ...], floors: dict[str, Floor | None]) -> Front:
    ranked = {
        variant: rows
        for variant, rows in setting.rows.items()
        if all(name in rows and rows[name].value is not None for name in objectives)
    }
    run = next(row.run for rows in setting.rows.values() for row in rows.values())
    relations = _relations(ranked, objectives, floors[run])
    points = (
        _point(rows, relations.get(variant, {}), is_ranked=variant in ranked) for variant, rows in setting.rows.items()
    )
    return Front(run=run, objectives=objectives, axes=setting.axes, exam=setting.exam, points=tuple(points))


def _relations(
    ranked: _ByVariant, objectives: tuple[str, ...], floor: Floor | None
) -> dict[Identity, dict[Identity, list[_Relation]]]:
    """Compare all pairs in each objective, as one family: how each variant's rivals compare with it."""
    rivals: dict[Identity, dict[Identity, list[_Relation]]] = {variant: {} for variant in ranked}
    tested = [(one, other, name) for one, other in combinations(ranked, 2) for name in objectives]
    pairs = [Pair(metric=name, base=ranked[one][name], new=ranked[other][name]) for one, other, name in tested]
    comparisons = compare_pairs(pairs, [floor] if floor else [])
    for (one, other, _), comparison in zip(tested, comparisons, strict=True):
        relation = _relation(comparison)
        rivals[one].setdefault(other, []).append(relation)
        rivals[other].setdefault(one, []).append(relation.reversed())
    return rivals


def _relation(pair: Comparison) -> _Relation:
    """Return how the new value of a pair compares with its base's."""
    gain = 1 if pair.one.higher_is_better else -1
    base, new = pair.base_value, pair.new_value
    if base is None or new is None or base == new or _is_rounding(pair):
        return _Relation(0, same=True, by_value=0)
    direction = {"faster": -1, "lower": -1, "slower": 1, "higher": 1}.get(pair.verdict, 0)
    return _Relation(gain * direction, same=pair.verdict == "same", by_value=gain if new > base else -gain)


def _is_rounding(pair: Comparison) -> bool:
    """Return whether both errors are small enough to be rounding alone."""
    limit = _ROUNDINGS * _EPSILON[pair.case.dtype]
    return pair.metric == _ERROR and all((value or 0) <= limit for value in (pair.base_value, pair.new_value))


def _point(rows: dict[str, Row], rivals: dict[Identity, list[_Relation]], *, is_ranked: bool) -> ParetoPoint:
    row = next(iter(rows.values()))
    sure = tuple(other for other, relations in rivals.items() if _dominates(relations))
    likely = tuple(other for other, relations in rivals.items() if _may_dominate(relations))
    standing: Standing = "dominated" if sure else "unsure" if likely else "front"
    return ParetoPoint(
        variant=row.case.variant,
        options=row.case.options,
        origin=row.origin.name,
        rows=rows,
        standing=standing if is_ranked else "",
        by=sure or likely,
    )


def _dominates(relations: Sequence[_Relation]) -> bool:
    return any(one.clear > 0 for one in relations) and all(one.clear > 0 or one.same for one in relations)


def _may_dominate(relations: Sequence[_Relation]) -> bool:
    """Return whether by the values alone a rival is at least as good in all objectives, and better in one."""
    no_worse = all(one.clear >= 0 and (one.same or one.by_value >= 0) for one in relations)
    return no_worse and any(one.by_value > 0 and not one.same for one in relations)


def _key(row: Row, like: Row | None = None) -> _Key:
    """Return all that identifies a row's setting but the variant; with `like`, that of another probe's row there."""
    case, probe = row.case, (like or row).probe
    passes = case.passes if probe.kind == row.probe.kind else passes_of(probe.metric, (case.passes,))[-1]
    return row.run, row.task, passes, *case.axes(without=("passes",)).values()
