"""Where one variant overtakes another as sequences grow, with an interval; and what to measure to know it better."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.courses import Course, Field, fields
from attnbench.analysis.floor import is_harness
from attnbench.analysis.rows import Row
from attnbench.contracts import stats
from attnbench.contracts.case import Axes, Case

METRIC = "latency"
_NARROW = 0.05  # an interval of this share of the length is known well enough
_SMALL_GAP = 64
_STEPS = (64, 16, 1)
_HALVINGS = 40

Point = tuple[float, float]  # logarithm of a length, and of a ratio (or of a bound of it) there


class Crossover(Struct, frozen=True, kw_only=True):
    """The length from which `winner` takes less time than `loser`, interpolated between two measured lengths.

    `low` and `high` are where the 95% band of the ratio, paired by round, enters and leaves equality, widened by twice
    what a parabola through a further length makes of it; null where there are too few rounds for a band. Not `sure`
    where the ratio is not significantly on either side: then an interval that would reach past the sweep ends with it.
    `rank` is the winner's place among all variants at the length measured next, plus the loser's at the one before: 0
    where the crossing changes which is best.
    """

    winner: Row  # as measured at the length before the crossing, like `loser`
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
        """Which side of equality it is significantly on: 1 where the first is slower, -1 where faster, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def crossovers(rows: Iterable[Row]) -> list[Crossover]:
    """Find where any two variants of one field change places, the crossings that concern the best ones first.

    Between two lengths whose ratios are significant, on opposite sides, there is one crossing, and it is sure. Where a
    pair has none, but stands the other way round at the sweep's end, it has one that is not sure.
    """
    found: list[Crossover] = []
    for field in fields(row for row in rows if row.metric == METRIC and not is_harness(row)):
        for first, second in combinations(field.courses, 2):
            found += _of_pair(first, second, field)
    return sorted(found, key=lambda crossing: (not crossing.sure, crossing.rank, crossing.length))


def _of_pair(first: Course, second: Course, field: Field) -> Iterator[Crossover]:
    ratios = [_ratio(length, first.rows[length], second.rows[length]) for length in first.rows if length in second.rows]
    spans = list(_sure_spans(ratios))
    for span in spans:
        yield _crossing(span, ratios, (first, second), field)
    if ratios and not spans and _crosses(ratios[0], ratios[-1]):
        yield _crossing(ratios, ratios, (first, second), field)


def _ratio(length: int, first: Row, second: Row) -> _Ratio:
    shared = [number for number in first.medians if second.medians.get(number) and first.medians[number]]
    logs = [math.log(first.medians[number] / second.medians[number]) for number in shared]
    assert first.value is not None
    assert second.value is not None
    if len(logs) < stats.FEWEST_REPLICATES:
        return _Ratio(length, math.log(first.value / second.value), None, None)
    mean = stats.mean_over_seeds(logs)
    return _Ratio(length, mean.value, mean.low, mean.high)


def _sure_spans(ratios: Sequence[_Ratio]) -> Iterator[Sequence[_Ratio]]:
    """Give the stretches from a significant length to the next one that is significant the other way."""
    significant = [place for place, ratio in enumerate(ratios) if ratio.side]
    for start, end in pairwise(significant):
        if ratios[start].side != ratios[end].side:
            yield ratios[start : end + 1]


def _crosses(a: _Ratio, b: _Ratio) -> bool:
    return (a.value > 0) != (b.value > 0)


def _crossing(
    stretch: Sequence[_Ratio], ratios: Sequence[_Ratio], courses: tuple[Course, Course], field: Field
) -> Crossover:
    """Give the crossing of a stretch whose ends lie on opposite sides: of several by chance, the one in the middle."""
    turns = [(a, b) for a, b in pairwise(stretch) if _crosses(a, b)][::2]  # those between are the way back
    before, after = turns[len(turns) // 2]
    winner, loser = courses if before.value > 0 else courses[::-1]
    length = _zero(_point(before), _point(after))
    low, high = _interval(stretch)
    if low is not None and high is not None:
        low, high = _widened(low, high, [each / length for each in _by_parabola(before, after, ratios)])
        low, high = max(low, ratios[0].length), min(high, ratios[-1].length)
    return Crossover(
        winner=winner.rows[before.length],
        loser=loser.rows[before.length],
        axes=field.axes,
        length=length,
        low=low,
        high=high,
        sure=stretch[0].side * stretch[-1].side < 0,
        between=(before.length, after.length),
        swept=(ratios[0].length, ratios[-1].length),
        rank=_place(winner, field, after.length) + _place(loser, field, before.length),
    )


def _interval(ratios: Sequence[_Ratio]) -> tuple[float | None, float | None]:
    """Give the lengths between which the band of a stretch holds zero; the stretch's ends where it never lets go."""
    lower = [(math.log(each.length), each.low) for each in ratios if each.low is not None]
    upper = [(math.log(each.length), each.high) for each in ratios if each.high is not None]
    if len(lower) < 2:
        return None, None
    # The edge nearer to zero at the start leaves its side first, the other one last.
    first, last = (lower, upper) if ratios[0].value > 0 else (upper, lower)
    entered, left = _zeros(first), _zeros(last)
    return (
        entered[0] if entered else float(ratios[0].length),
        left[-1] if left else float(ratios[-1].length),
    )


def _widened(low: float, high: float, shifts: Sequence[float]) -> tuple[float, float]:
    """Widen an interval by twice what a parabola shifts the crossing: the band knows noise, and no curvature."""
    return low * min((1.0, *(each**2 for each in shifts))), high * max((1.0, *(each**2 for each in shifts)))


def _by_parabola(before: _Ratio, after: _Ratio, ratios: Sequence[_Ratio]) -> Iterator[float]:
    """Give the crossing between two lengths by parabolas through them and the next length on either side."""
    place = ratios.index(before)
    for third in (*ratios[max(0, place - 1) : place], *ratios[place + 2 : place + 3]):
        (x, y), (x2, y2), (x3, y3) = map(_point, (before, after, third))
        rise = (y2 - y) / (x2 - x)
        bend = ((y3 - y) / (x3 - x) - rise) / (x3 - x2)
        # y + (t - x) * (rise + bend * (t - x2)) is zero once between x and x2, where it changes sign.
        start, end = x, x2
        for _ in range(_HALVINGS):
            t = (start + end) / 2
            if ((y + (t - x) * (rise + bend * (t - x2))) > 0) == (y > 0):
                start = t
            else:
                end = t
        yield math.exp(start)


def _point(ratio: _Ratio) -> Point:
    return math.log(ratio.length), ratio.value


def _zeros(edge: Sequence[Point]) -> list[float]:
    return [_zero(a, b) for a, b in pairwise(edge) if (a[1] > 0) != (b[1] > 0)]


def _zero(a: Point, b: Point) -> float:
    """Give the length at which a line in logarithms passes zero."""
    return math.exp(a[0] + (b[0] - a[0]) * a[1] / (a[1] - b[1]))


def _place(course: Course, field: Field, length: int) -> int:
    """Count the variants that are faster than a course at a length."""
    own = course.rows[length].value
    values = [each.rows[length].value for each in field.courses if length in each.rows]
    return sum(value is not None and own is not None and value < own for value in values)


class Refinement(Struct, frozen=True, kw_only=True):
    """A case that is to be measured, and the one that was measured and differs from it in its length alone."""

    known: Case
    wanted: Case


def refinements(found: Iterable[Crossover]) -> list[Refinement]:
    """Say what to measure to know crossings better: both variants in the middle, in logarithms, of the lengths around.

    Not where the interval is narrower than 5% of the length already, or the lengths are less than 64 apart.
    """
    return [
        Refinement(known=row.case, wanted=_at(middle(*crossing.between), row.case, crossing.axes))
        for crossing in found
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
    """Give the geometric mean of two lengths, rounded to a multiple of 64, or of 16 or 1 where the gap has no such."""
    exact = math.sqrt(start * end)
    rounded = (step * round(exact / step) for step in _STEPS)
    return next(length for length in rounded if start < length < end)


def _is_narrow(crossing: Crossover) -> bool:
    if not crossing.sure or crossing.low is None or crossing.high is None:
        return False
    if crossing.between == crossing.swept:  # of two lengths alone: nobody knows how the ratio bends
        return False
    return crossing.high - crossing.low < _NARROW * crossing.length
