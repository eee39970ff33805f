"""Crossovers: the lengths at which one variant overtakes another, with intervals, and the cases that refine them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.curves import Curve, CurveGroup, curve_groups, stretches
from attnbench.analysis.rows import Row
from attnbench.contracts import stats
from attnbench.contracts.case import Axes, Case

METRIC = "latency"
_NARROW = 0.05  # share of the length below which an interval needs no refinement
_SMALL_GAP = 64
_STEPS = (64, 16, 1)

_LogPoint = tuple[float, float]  # the logarithm of a length, and that of a ratio (or of its bound) there


class Crossover(Struct, frozen=True, kw_only=True):
    """The length from which `winner` takes less time than `loser`, interpolated between two measured lengths.

    `low` and `high` are where the 95% band of the ratio, paired by round, enters and leaves equality, widened by twice
    the shift of a parabola through another length; null where there are too few rounds for a band. Not `sure` where the
    ratio is not significant on both sides; an interval that would reach past the sweep then ends with it. `rank` counts
    the variants ahead of the winner at the length measured next, plus those ahead of the loser at the one before: 0
    where the crossing changes which variant is best.
    """

    winner: Row  # at the length measured before the crossing, like `loser`
    loser: Row
    axes: Axes
    length: float
    low: float | None = None
    high: float | None = None
    sure: bool = False
    between: tuple[int, int]  # the neighbouring lengths that were measured
    swept: tuple[int, int]
    rank: int = 0


class _Ratio(Struct, frozen=True):
    """The logarithm of the first's time over the second's at a length, with its 95% interval."""

    length: int
    value: float
    low: float | None
    high: float | None

    @property
    def side(self) -> int:
        """Which variant is significantly slower: 1 the first, -1 the second, 0 neither."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def point(self) -> _LogPoint:
        """The ratio as a point in logarithms."""
        return math.log(self.length), self.value


def crossovers(rows: Iterable[Row]) -> list[Crossover]:
    """Return where any two variants change places, the crossings of the best variants first.

    Between two neighbouring significant ratios on opposite sides there is one crossing, and it is sure. A pair without
    one has a crossing that is not sure if it ends the sweep the other way round. A length at which one of them failed
    ends the sweep before it, and another begins behind it: nothing is interpolated across.
    """
    crossings: list[Crossover] = []
    for group in curve_groups(row for row in rows if row.metric == METRIC and not row.is_harness):
        for first, second in combinations(group.curves, 2):
            crossings += _of_pair(first, second, group)
    return sorted(crossings, key=lambda crossing: (not crossing.sure, crossing.rank, crossing.length))


def _of_pair(first: Curve, second: Curve, group: CurveGroup) -> Iterator[Crossover]:
    shared = [length for length in first.rows if length in second.rows]
    for stretch in stretches(shared, (*first.failed, *second.failed)):
        yield from _of_stretch(
            [_ratio(length, first.rows[length], second.rows[length]) for length in stretch], first, second, group
        )


def _of_stretch(ratios: Sequence[_Ratio], first: Curve, second: Curve, group: CurveGroup) -> Iterator[Crossover]:
    spans = list(_sure_spans(ratios))
    for span in spans:
        yield _crossing(span, ratios, (first, second), group)
    if ratios and not spans and _crosses(ratios[0], ratios[-1]):
        yield _crossing(ratios, ratios, (first, second), group)


def _ratio(length: int, first: Row, second: Row) -> _Ratio:
    shared = [number for number in first.medians if second.medians.get(number) and first.medians[number]]
    logs = [math.log(first.medians[number] / second.medians[number]) for number in shared]
    assert first.value is not None
    assert second.value is not None
    if len(logs) < stats.FEWEST_REPLICATES:
        return _Ratio(length, math.log(first.value) - math.log(second.value), None, None)
    mean = stats.mean_over_seeds(logs)
    return _Ratio(length, mean.value, mean.low, mean.high)


def _sure_spans(ratios: Sequence[_Ratio]) -> Iterator[Sequence[_Ratio]]:
    """Yield the ratios from each significant one to the next that is significant the other way."""
    significant = [index for index, ratio in enumerate(ratios) if ratio.side]
    for start, end in pairwise(significant):
        if ratios[start].side != ratios[end].side:
            yield ratios[start : end + 1]


def _crosses(a: _Ratio, b: _Ratio) -> bool:
    return (a.value > 0) != (b.value > 0)


def _crossing(
    span: Sequence[_Ratio], ratios: Sequence[_Ratio], curves: tuple[Curve, Curve], group: CurveGroup
) -> Crossover:
    """Return the crossing of a span whose ends lie on opposite sides: of several by chance, the one in the middle."""
    turns = [(a, b) for a, b in pairwise(span) if _crosses(a, b)][::2]  # those between turn back
    before, after = turns[len(turns) // 2]
    winner, loser = curves if before.value > 0 else curves[::-1]
    length = _zero(before.point, after.point)
    low, high = _interval(span)
    if low is not None and high is not None:
        low, high = _widened(low, high, [root / length for root in _parabola_zeros(before, after, ratios)])
        low, high = max(low, ratios[0].length), min(high, ratios[-1].length)
    return Crossover(
        winner=winner.rows[before.length],
        loser=loser.rows[before.length],
        axes=group.axes,
        length=length,
        low=low,
        high=high,
        sure=span[0].side * span[-1].side < 0,
        between=(before.length, after.length),
        swept=(ratios[0].length, ratios[-1].length),
        rank=_rank(winner, group, after.length) + _rank(loser, group, before.length),
    )


def _interval(span: Sequence[_Ratio]) -> tuple[float | None, float | None]:
    """Return the lengths between which the band of a span contains zero, or the ends of the span."""
    lower = [(math.log(ratio.length), ratio.low) for ratio in span if ratio.low is not None]
    upper = [(math.log(ratio.length), ratio.high) for ratio in span if ratio.high is not None]
    if len(lower) < 2:
        return None, None
    # The edge nearer to zero at the start leaves its side first, the other one last.
    first, last = (lower, upper) if span[0].value > 0 else (upper, lower)
    entered, left = _zeros(first), _zeros(last)
    return (
        entered[0] if entered else float(span[0].length),
        left[-1] if left else float(span[-1].length),
    )


def _widened(low: float, high: float, shifts: Sequence[float]) -> tuple[float, float]:
    """Widen an interval by twice each shift, as a factor: the band accounts for noise, but not for curvature."""
    factors = [1.0, *(shift**2 for shift in shifts)]
    return low * min(factors), high * max(factors)


def _parabola_zeros(before: _Ratio, after: _Ratio, ratios: Sequence[_Ratio]) -> Iterator[float]:
    """Yield where parabolas through two lengths and the next one on either side cross zero between the two."""
    from scipy.optimize import brentq

    index = ratios.index(before)
    (x1, y1), (x2, y2) = before.point, after.point
    for third in (*ratios[max(0, index - 1) : index], *ratios[index + 2 : index + 3]):
        x3, y3 = third.point
        curvature = ((y3 - y1) / (x3 - x1) - (y2 - y1) / (x2 - x1)) / (x3 - x2)

        def parabola(x: float, curvature: float = curvature) -> float:
            on_line = (y1 * (x2 - x) + y2 * (x - x1)) / (x2 - x1)
            return on_line + curvature * (x - x1) * (x - x2)

        yield math.exp(brentq(parabola, x1, x2))


def _zeros(edge: Sequence[_LogPoint]) -> list[float]:
    return [_zero(a, b) for a, b in pairwise(edge) if (a[1] > 0) != (b[1] > 0)]


def _zero(a: _LogPoint, b: _LogPoint) -> float:
    """Return the length at which a line in logarithms crosses zero."""
    return math.exp(a[0] + (b[0] - a[0]) * a[1] / (a[1] - b[1]))


def _rank(curve: Curve, group: CurveGroup, length: int) -> int:
    """Return the number of variants that are faster than a curve's at a length."""
    own = curve.rows[length].value
    values = [other.rows[length].value for other in group.curves if length in other.rows]
    return sum(value is not None and own is not None and value < own for value in values)


class Refinement(Struct, frozen=True, kw_only=True):
    """A case to measure, and the measured case from which it differs in its length alone."""

    measured: Case
    wanted: Case


def refinements(crossings: Iterable[Crossover]) -> list[Refinement]:
    """Return what to measure to narrow crossings: both variants at the geometric mean of the lengths around.

    Crossings whose interval is narrower than 5% of the length, or whose lengths are less than 64 apart, have none.
    """
    return [
        Refinement(measured=row.case, wanted=_at(middle(*crossing.between), row.case, crossing.axes))
        for crossing in crossings
        if not _is_narrow(crossing) and crossing.between[1] - crossing.between[0] >= _SMALL_GAP
        for row in (crossing.winner, crossing.loser)
    ]


def _at(length: int, case: Case, axes: Axes) -> Case:
    """Return a case at another length: seq_k follows where it equals seq_q, the batch where tokens are constant."""
    sizes = {"seq_k": length} if case.passes == "decode" else {"seq_q": length}
    if case.passes != "decode" and "seq_k" not in axes:
        sizes["seq_k"] = length
    if "batch" not in axes:
        sizes["batch"] = max(1, case.shape.batch * case.length // length)
    return replace(case, shape=replace(case.shape, **sizes))


def middle(start: int, end: int) -> int:
    """Return the geometric mean of two lengths, rounded to a multiple of 64, or of 16 or 1 where the gap has none."""
    exact = math.sqrt(start * end)
    rounded = (step * round(exact / step) for step in _STEPS)
    return next(length for length in rounded if start < length < end)


def _is_narrow(crossing: Crossover) -> bool:
    if not crossing.sure or crossing.low is None or crossing.high is None:
        return False
    if crossing.between == crossing.swept:  # two lengths alone do not show how the ratio bends
        return False
    return crossing.high - crossing.low < _NARROW * crossing.length
