"""Estimates at a length: measured, interpolated between lengths, or extrapolated slightly beyond them by a power law.

Made from rows of one variant that differ in their length alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from attnbench.analysis.curves import stretches
from attnbench.analysis.rows import Row
from attnbench.contracts import stats
from attnbench.contracts.stats import Estimate, Noise

How = Literal["measured", "between", "beyond"]
FARTHEST = 2.0  # largest factor by which an estimate is extrapolated beyond the lengths measured
_FEWEST_TO_FIT = 3

Rows = Mapping[int, Row]  # by length
_LogPoint = tuple[float, float]  # the logarithm of a length, and that of a value (or of its bound) there


class LengthEstimate(Struct, frozen=True, kw_only=True):
    """An estimate at a length, in base units, with what it rests on.

    `low` and `high` are the 95% interval; between lengths it is interpolated too, and widened by what curvature may
    add. It is null where there are too few rounds or lengths for one. `exponent` is that of an extrapolation.
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
    def has_interval(self) -> bool:
        """Whether it has an interval."""
        return self.low is not None and self.high is not None


def estimate_at(rows: Rows, length: int, *, extrapolate: bool) -> LengthEstimate | None:
    """Return the estimate at a length, from rows by their length; None where nothing supports one.

    Between two lengths it lies on a straight line through the logarithms. With `extrapolate` it goes up to FARTHEST
    beyond the lengths, where there are three, by the exponent fitted to all of them and its interval (and the exponent
    of the nearest two, should that lie outside).

    A row that failed outranks its neighbours: there is no estimate at its length, and none from lengths beyond it.
    """
    exact = rows.get(length)
    if exact is not None and exact.has_failed:
        return None
    if exact is not None and exact.value is not None:
        low, high = _interval(exact)
        return _estimate(Estimate(exact.value, low, high), "measured", [exact], [length])
    positive = {measured: rows[measured] for measured in _reachable(rows, length)}
    if not positive or not min(positive) < length < max(positive):
        return _beyond(positive, length) if extrapolate else None
    return _between(positive, length)


def _reachable(rows: Rows, length: int) -> list[int]:
    """Return the lengths with a value above zero, between which and `length` none failed, ascending."""
    failed = [measured for measured, row in rows.items() if row.has_failed]
    positive = {measured for measured, row in rows.items() if (row.value or 0) > 0}
    around = next(stretch for stretch in stretches(sorted({*positive, length}), failed) if length in stretch)
    return [measured for measured in around if measured in positive]


def _between(rows: Rows, length: int) -> LengthEstimate:
    around = next((a, b) for a, b in pairwise(rows) if a < length < b)
    ends = [rows[end] for end in around]
    x = math.log(length)
    value, low, high = (_on_line(points, x) for points in zip(*(_points(row) for row in ends), strict=True))
    assert value is not None
    bends = [abs(bend) for bend in _bends(rows, x, around)]
    bend = 2 * max(bends) if bends else None
    bounds = (_moved(low, bend, -1), _moved(high, bend, 1))
    return _estimate(Estimate(math.exp(value), *bounds), "between", ends, around)


def _beyond(rows: Rows, length: int) -> LengthEstimate | None:
    """Return the estimate beyond the lengths, from the nearest one."""
    if len(rows) < _FEWEST_TO_FIT:
        return None
    ordered = sorted(rows, reverse=length < min(rows))
    end, ratio = rows[ordered[-1]], length / ordered[-1]
    if max(ratio, 1 / ratio) > FARTHEST:
        return None
    fitted = _slope(rows, ordered)
    assert fitted.low is not None
    assert fitted.high is not None
    nearest = _slope(rows, ordered[-2:]).value
    powers = (ratio ** min(fitted.low, nearest), ratio ** max(fitted.high, nearest))
    low, high = _interval(end)
    estimate = Estimate(
        (end.value or 0) * ratio**fitted.value,
        None if low is None else low * min(powers),
        None if high is None else high * max(powers),
    )
    return _estimate(estimate, "beyond", [rows[measured] for measured in ordered], sorted(rows), exponent=fitted.value)


def _slope(rows: Rows, lengths: Sequence[int]) -> Estimate:
    return stats.slope(*zip(*(_point(rows, length) for length in lengths), strict=True))


def _interval(row: Row) -> tuple[float | None, float | None]:
    return (row.value, row.value) if row.probe.metric.replicates == "none" else (row.low, row.high)


def _points(row: Row) -> list[_LogPoint | None]:
    """Return the logarithms of a row's value and of its interval's ends."""
    length = math.log(row.case.length)
    return [None if not end or end < 0 else (length, math.log(end)) for end in (row.value, *_interval(row))]


def _on_line(points: Sequence[_LogPoint | None], x: float) -> float | None:
    a, b = points
    if a is None or b is None:
        return None
    return a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])


def _bends(rows: Rows, x: float, around: tuple[int, int]) -> Iterable[float]:
    """Yield how far parabolas through another length leave the straight line, at x."""
    lengths = sorted(rows)
    index = lengths.index(around[0])
    (x1, y1), (x2, y2) = (_point(rows, end) for end in around)
    rise = (y2 - y1) / (x2 - x1)
    for third in (*lengths[max(0, index - 1) : index], *lengths[index + 2 : index + 3]):
        x3, y3 = _point(rows, third)
        yield (x - x1) * (x - x2) * ((y3 - y1) / (x3 - x1) - rise) / (x3 - x2)


def _point(rows: Rows, length: int) -> _LogPoint:
    return math.log(length), math.log(rows[length].value or 0)


def _moved(bound: float | None, bend: float | None, sign: int) -> float | None:
    return None if bound is None or bend is None else math.exp(bound + sign * bend)


def _estimate(
    estimate: Estimate, how: How, supports: Sequence[Row], lengths: Iterable[int], *, exponent: float | None = None
) -> LengthEstimate:
    noisiest = max(supports, key=lambda row: row.spread or 0)
    return LengthEstimate(
        metric=supports[0].metric,
        unit=supports[0].unit,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        how=how,
        lengths=tuple(lengths),
        runs=tuple(dict.fromkeys(row.run for row in supports)),
        rounds=min(row.rounds for row in supports),
        noise=noisiest.noise,
        exponent=exponent,
    )
