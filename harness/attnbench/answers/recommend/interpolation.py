"""A variant's figure at a length: as measured, between measured lengths, or, where it grows as a power, a bit beyond.

Pure, from rows of one variant that differ in their length alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from attnbench.analysis.rows import Row
from attnbench.contracts import stats
from attnbench.contracts.stats import Noise

How = Literal["measured", "between", "beyond"]
FARTHEST = 2.0  # a figure is carried beyond the lengths measured by no more than this factor
_FEWEST_TO_FIT = 3

Rows = Mapping[int, Row]
Point = tuple[float, float]  # logarithms of a length and of a value (or of a bound of it) there


class Figure(Struct, frozen=True, kw_only=True):
    """A figure at a length, in base units, with what it rests on.

    `low` and `high` are the 95% interval, which what lies between lengths shares with its neighbours, widened by what
    curvature may make of it; null where rounds or lengths are too few for one. `exponent` is what it was carried on by.
    """

    metric: str
    unit: str
    value: float
    low: float | None
    high: float | None
    how: How
    lengths: tuple[int, ...]
    runs: tuple[str, ...]
    rounds: int
    noise: Noise = ""
    exponent: float | None = None

    @property
    def known(self) -> bool:
        """Whether it has an interval."""
        return self.low is not None and self.high is not None


def figure_at(rows: Rows, length: int, *, carry: bool) -> Figure | None:
    """Give the figure at a length from rows by their length; None where nothing supports one.

    Between two lengths it lies on a straight line through the logarithms. With `carry` it goes up to FARTHEST beyond
    the lengths, where there are three, by the exponent fitted to all of them and its interval (and the exponent of the
    nearest two, should that lie outside).
    """
    exact = rows.get(length)
    if exact is not None and exact.value is not None:
        low, high = _interval(exact)
        return _figure(exact, (exact.value, low, high), "measured", [exact], [length])
    known = {each: rows[each] for each in sorted(rows) if (rows[each].value or 0) > 0}
    if not known or not min(known) < length < max(known):
        return _beyond(known, length) if carry else None
    before, after = next((a, b) for a, b in pairwise(known) if a < length < b)
    return _between(known, length, (before, after))


def _between(rows: Rows, length: int, around: tuple[int, int]) -> Figure:
    ends = [rows[each] for each in around]
    x = math.log(length)
    value, low, high = (_on_line(points, x) for points in zip(*(_points(row) for row in ends), strict=True))
    assert value is not None
    bends = [abs(bend) for bend in _bends(rows, x, around)]
    bend = 2 * max(bends) if bends else None
    bounds = (_moved(low, bend, -1), _moved(high, bend, 1))
    return _figure(ends[0], (math.exp(value), *bounds), "between", ends, around)


def _beyond(rows: Rows, length: int) -> Figure | None:
    """Carry a course on from its nearer end."""
    if len(rows) < _FEWEST_TO_FIT:
        return None
    ordered = sorted(rows, reverse=length < min(rows))
    end, share = ordered[-1], length / ordered[-1]
    if max(share, 1 / share) > FARTHEST:
        return None
    fitted = _slope(rows, ordered)
    assert fitted.low is not None
    assert fitted.high is not None
    nearest = _slope(rows, ordered[-2:]).value
    powers = (share ** min(fitted.low, nearest), share ** max(fitted.high, nearest))
    low, high = _interval(rows[end])
    figures = (
        (rows[end].value or 0) * share**fitted.value,
        None if low is None else low * min(powers),
        None if high is None else high * max(powers),
    )
    ends = [rows[each] for each in ordered]
    return _figure(rows[end], figures, "beyond", ends, sorted(rows), exponent=fitted.value)


def _slope(rows: Rows, lengths: Sequence[int]) -> stats.Estimate:
    return stats.slope(*zip(*((math.log(each), math.log(rows[each].value or 0)) for each in lengths), strict=True))


def _interval(row: Row) -> tuple[float | None, float | None]:
    return (row.value, row.value) if row.probe.metric.replicates == "none" else (row.low, row.high)


def _points(row: Row) -> list[Point | None]:
    """Give the logarithms of a row's value and of its interval's ends."""
    length = math.log(row.case.length)
    return [None if not each or each < 0 else (length, math.log(each)) for each in (row.value, *_interval(row))]


def _on_line(points: Sequence[Point | None], x: float) -> float | None:
    a, b = points
    if a is None or b is None:
        return None
    return a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])


def _bends(rows: Rows, x: float, around: tuple[int, int]) -> Iterable[float]:
    """Say by how much parabolas through a further length leave the straight line, at x."""
    lengths = sorted(rows)
    place = lengths.index(around[0])
    (x1, y1), (x2, y2) = (_point(rows, each) for each in around)
    rise = (y2 - y1) / (x2 - x1)
    for third in (*lengths[max(0, place - 1) : place], *lengths[place + 2 : place + 3]):
        x3, y3 = _point(rows, third)
        yield (x - x1) * (x - x2) * ((y3 - y1) / (x3 - x1) - rise) / (x3 - x2)


def _point(rows: Rows, length: int) -> Point:
    return math.log(length), math.log(rows[length].value or 0)


def _moved(bound: float | None, bend: float | None, sign: int) -> float | None:
    return None if bound is None or bend is None else math.exp(bound + sign * bend)


def _figure(
    row: Row,
    figures: tuple[float, float | None, float | None],
    how: How,
    supports: Sequence[Row],
    lengths: Iterable[int],
    *,
    exponent: float | None = None,
) -> Figure:
    value, low, high = figures
    worst = max(supports, key=lambda each: each.spread or 0)
    return Figure(
        metric=row.metric,
        unit=row.unit,
        value=value,
        low=low,
        high=high,
        how=how,
        lengths=tuple(lengths),
        runs=tuple(dict.fromkeys(each.run for each in supports)),
        rounds=min(each.rounds for each in supports),
        noise=worst.noise,
        exponent=exponent,
    )
