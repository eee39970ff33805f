"""The Pareto front: the variants that no other one beats without a loss elsewhere, as far as tests tell."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Literal

from msgspec import Struct

from attnbench.analysis.aa_floor import Floor, aa_floor
from attnbench.analysis.compare import Comparison, compare_pairs
from attnbench.analysis.held import MEMORY, TOTAL
from attnbench.analysis.match import Pair
from attnbench.analysis.regime import Refusal, is_quality, may_be_weighed, refusal
from attnbench.analysis.rows import Row
from attnbench.analysis.variant import Variant
from attnbench.contracts.case import Axes, Dtype, Identity
from attnbench.contracts.metrics import QUALITIES, passes_of

Standing = Literal["", "front", "unsure", "dominated", "exact here", "other regime"]

_COSTS = ("latency", MEMORY, TOTAL)
_RANKED: tuple[Standing, ...] = ("front", "unsure", "dominated")
_FEWEST_COMPARED = 2  # a front of fewer offers no choice
_ERROR = "approximation_error"
_EPSILON: dict[Dtype, float] = {"float64": 2**-52, "float32": 2**-23, "bfloat16": 2**-7, "float16": 2**-10}
_ROUNDINGS = 8  # epsilons of its dtype that an error may have from rounding alone

_Key = tuple[object, ...]
_Column = dict[Identity, Row]  # the rows of a metric at one setting
_ByVariant = dict[Identity, dict[str, Row]]  # rows by variant and metric


class ParetoPoint(Variant, frozen=True, kw_only=True):
    """A variant and its standing; `rows` are by metric, and name the reason where one has no value.

    `by` are the variants that dominate it, or might where the standing is unsure. A variant without a value for each
    objective has no standing. One whose quality does not count for its cost is not compared, and `why` says why.
    """

    rows: dict[str, Row]
    standing: Standing = ""
    by: tuple[Identity, ...] = ()
    why: str = ""


class Front(Struct, frozen=True, kw_only=True):
    """Variants that can be weighed against each other: costed at the same `axes`, judged by the same qualities.

    A quality has a length, inputs and heads of its own: those of its row in `exams`, by metric.
    """

    run: str
    objectives: tuple[str, ...]
    axes: Axes
    exams: dict[str, Row]
    points: tuple[ParetoPoint, ...]

    @property
    def ranked(self) -> int:
        """The number of variants that are compared with each other."""
        return sum(point.standing in _RANKED for point in self.points)


class _Relation(Struct, frozen=True):
    """How one value compares with another: by tests, as shown to be the same, and by the values alone."""

    clear: int  # 1 clearly better, -1 clearly worse, 0 neither is shown
    same: bool
    by_value: int

    def reversed(self) -> "_Relation":
        return _Relation(-self.clear, self.same, -self.by_value)


def fronts(rows: Iterable[Row], objectives: Iterable[str] | None = None) -> list[Front]:
    """Return the front for each set of axes that is costed, and for each task or inputs where a quality was measured.

    The default objectives are `usual_objectives`. One variant dominates another if it is clearly better in one
    objective, and in each other one clearly better or shown to be the same. The verdicts of `compare` decide what is
    clear (tests by round or seed, beyond 1% and the A/A floor, all pairs of a front one family; counts differ from 1%
    on). Approximation errors within 8 epsilons of their dtype are the same. Where only the values say so, and no test
    the contrary, the standing is `unsure`; so it is for everything that rests on fewer than 3 rounds or seeds, equal
    figures included. A variant whose quality does not count for its cost (`regime.refusal`) is compared with none. Any
    other variant is on the front.
    """
    shown = [row for row in rows if not row.is_harness]
    wanted = usual_objectives(shown) if objectives is None else tuple(objectives)
    by_metric = {row.metric: row for row in shown}
    if not wanted or any(name not in by_metric for name in wanted):
        return []
    runs = {row.run for row in shown}
    floors = {run: aa_floor(row for row in shown if row.run == run) for run in runs}
    found = (_front(setting, wanted, floors[setting.run]) for setting in _settings(shown, by_metric, wanted))
    return [front for front in found if _compared(front) >= _FEWEST_COMPARED]


def usual_objectives(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return latency and the most telling quality that was measured, or nothing where either is missing."""
    qualities = {
        row.probe.kind: row.metric for row in rows if row.primary and is_quality(row) and row.value is not None
    }
    best = next((qualities[kind] for kind in QUALITIES if kind in qualities), None)
    return () if best is None else ("latency", best)


def shown_metrics(front: Front) -> list[str]:
    """Return the metrics that a front's points have: costs, then qualities."""
    present = dict.fromkeys(name for point in front.points for name in point.rows)
    return [*(name for name in _COSTS if name in present), *(name for name in present if name not in _COSTS)]


def most_telling(several: Sequence[Front]) -> Front | None:
    """Return the front that represents all: of those that rank the most variants, the longest with the most heads.

    Between equals, the one whose task is longest and has the most heads.
    """

    def size(front: Front) -> tuple[int, ...]:
        shapes = [exam.case.shape for name, exam in front.exams.items() if name in front.objectives]
        exam = max(((shape.seq_q, shape.heads) for shape in shapes), default=(0, 0))
        return front.ranked, *(int(front.axes[name] or 0) for name in ("seq_k", "seq_q", "heads")), *exam

    return max(several, key=size, default=None)


class _Setting(Struct, frozen=True):
    """The rows of all variants at one set of axes, with one task or inputs for each quality."""

    run: str
    axes: Axes
    exams: dict[str, Row]
    rows: _ByVariant


def _settings(rows: Sequence[Row], by_metric: Mapping[str, Row], objectives: Sequence[str]) -> Iterator[_Setting]:
    """Yield what is costed at one set of axes, with each choice of what the qualities were measured on."""
    base = next((name for name in objectives if not is_quality(by_metric[name])), None)
    if base is None:
        return
    shown = ("latency", TOTAL if TOTAL in by_metric else MEMORY, *objectives)
    costs = [name for name in by_metric if name in shown and not is_quality(by_metric[name])]
    qualities = [name for name in by_metric if is_quality(by_metric[name]) and _is_shown(by_metric[name], objectives)]
    index = _indexed(row for row in rows if row.metric in (*costs, *qualities))
    for row in {_key(row): row for row in rows if row.metric == base}.values():
        columns = {name: index.get(name, {}).get(_key(row, by_metric[name]), {}) for name in costs}
        several = [_exams(index[name], row, like=by_metric[name], every=name in objectives) for name in qualities]
        for exams in product(*several):
            of_qualities = {name: column for name, column in zip(qualities, exams, strict=True) if column}
            yield _Setting(
                run=row.run,
                axes=row.case.axes(),
                exams={name: _first(column) for name, column in of_qualities.items()},
                rows=_by_variant({**columns, **of_qualities}, base),
            )


def _is_shown(quality: Row, objectives: Sequence[str]) -> bool:
    return quality.primary or quality.metric in objectives


def _exams(columns: dict[_Key, _Column], cost: Row, *, like: Row, every: bool) -> list[_Column]:
    """Return the columns of a quality for a cost: that at its own axes, else all of the run's, or the longest of them.

    Where there is none, an empty column.
    """
    own = columns.get(_key(cost, like))
    if own:
        return [own]
    of_run = [column for column in columns.values() if may_be_weighed(_first(column), cost)]
    if not every:
        of_run = sorted(of_run, key=lambda column: _first(column).case.length)[-1:]
    return of_run or [{}]


def _first(column: _Column) -> Row:
    return next(iter(column.values()))


def _indexed(rows: Iterable[Row]) -> dict[str, dict[_Key, _Column]]:
    """Return rows by metric and setting, then by variant; of two rows the later one counts."""
    index: dict[str, dict[_Key, _Column]] = {}
    for row in rows:
        index.setdefault(row.metric, {}).setdefault(_key(row), {})[row.identity] = row
    return index


def _by_variant(columns: dict[str, _Column], base: str) -> _ByVariant:
    return {
        variant: {name: column[variant] for name, column in columns.items() if variant in column}
        for variant in columns[base]
    }


def _front(setting: _Setting, objectives: tuple[str, ...], floor: Floor | None) -> Front:
    complete = {
        variant: rows
        for variant, rows in setting.rows.items()
        if all(name in rows and rows[name].value is not None for name in objectives)
    }
    refused = {variant: why for variant, rows in complete.items() if (why := _refusal(rows, objectives))}
    ranked = {variant: rows for variant, rows in complete.items() if variant not in refused}
    relations = _relations(ranked, objectives, floor)
    points = (_point(rows, relations.get(variant), refused.get(variant)) for variant, rows in setting.rows.items())
    return Front(run=setting.run, objectives=objectives, axes=setting.axes, exams=setting.exams, points=tuple(points))


def _refusal(rows: dict[str, Row], objectives: Sequence[str]) -> Refusal | None:
    """Return why one of the qualities does not count for the first cost, or None where all do."""
    cost = next(rows[name] for name in objectives if not is_quality(rows[name]))
    reasons = (refusal(cost, rows[name]) for name in objectives if is_quality(rows[name]))
    return next((reason for reason in reasons if reason), None)


def _compared(front: Front) -> int:
    return sum(bool(point.standing) for point in front.points)


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
    """Return how the new value of a pair compares with its base's.

    Equal figures of one seed are no more the same than they are tested; those of what is counted once are.
    """
    gain = 1 if pair.one.higher_is_better else -1
    base, new = pair.base_value, pair.new_value
    if base is None or new is None or _is_rounding(pair):
        return _Relation(0, same=True, by_value=0)
    direction = {"faster": -1, "lower": -1, "slower": 1, "higher": 1}.get(pair.verdict, 0)
    by_value = gain if new > base else -gain if new < base else 0
    return _Relation(gain * direction, same=pair.verdict == "same", by_value=by_value)


def _is_rounding(pair: Comparison) -> bool:
    """Return whether both errors are small enough to be rounding alone."""
    limit = _ROUNDINGS * _EPSILON[pair.case.dtype]
    return pair.metric == _ERROR and all((value or 0) <= limit for value in (pair.base_value, pair.new_value))


def _point(
    rows: dict[str, Row], rivals: dict[Identity, list[_Relation]] | None, refused: Refusal | None
) -> ParetoPoint:
    row = next(iter(rows.values()))
    sure = tuple(other for other, relations in (rivals or {}).items() if _dominates(relations))
    likely = tuple(other for other, relations in (rivals or {}).items() if _may_dominate(relations))
    standing: Standing = "dominated" if sure else "unsure" if likely else "front"
    if rivals is None:
        standing = refused.kind if refused else ""
    return ParetoPoint(
        variant=row.case.variant,
        options=row.case.options,
        origin=row.origin.name,
        rows=rows,
        standing=standing,
        by=sure or likely,
        why=refused.reason if refused else "",
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
    task = row.task if like is None else like.task
    return row.run, task, passes, *case.axes(without=("passes",)).values()
