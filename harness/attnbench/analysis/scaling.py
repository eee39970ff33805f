"""How figures grow with the sequence length: each variant's latency and memory fitted as a power of it."""

import math
from collections.abc import Iterable, Mapping

from msgspec import Struct

from attnbench.analysis.courses import Course, fields
from attnbench.analysis.rows import Row
from attnbench.contracts import stats
from attnbench.contracts.case import Axes, Identity, Option, canonical

METRICS = ("latency", "memory")


class Growth(Struct, frozen=True, kw_only=True):
    """A metric of a variant as N^exponent over `lengths`, with a 95% interval; `local` is over the last doubling alone.

    `axes` are all others. Where the batch changes with the length it is the cost of one sequence that is fitted.
    """

    run: str
    variant: str
    options: dict[str, Option]
    origin: str
    metric: str
    axes: Axes
    lengths: tuple[int, ...]
    exponent: float
    low: float | None = None
    high: float | None = None
    local: float
    per_sequence: bool = False

    @property
    def identity(self) -> Identity:
        """The variant's identity, as of its rows."""
        return self.variant, canonical(self.options), self.origin


def growths(rows: Iterable[Row], metrics: Iterable[str] = METRICS) -> list[Growth]:
    """Fit every course of two lengths or more, by least squares on the logarithms.

    The interval is the wider of two by Student's t: on the residuals, from three lengths, which sees what is no power
    at all; and on the slopes of the rounds, from three rounds, which sees the noise. Null where neither can be had.
    """
    wanted = tuple(metrics)
    found = fields(row for row in rows if row.metric in wanted)
    return [_growth(course, field.axes) for field in found for course in field.courses if len(course.rows) > 1]


def _growth(course: Course, axes: Axes) -> Growth:
    row = course.row
    values = {length: each.value / _sequences(each, course) for length, each in course.rows.items() if each.value}
    fitted = _slope(values)
    low, high = _widest(fitted, _over_rounds(course))
    end = max(values)
    start = max((length for length in values if 2 * length <= end), default=min(values))
    return Growth(
        run=row.run,
        variant=row.case.variant,
        options=row.case.options,
        origin=row.origin.name,
        metric=row.metric,
        axes=axes,
        lengths=tuple(values),
        exponent=fitted.value,
        low=low,
        high=high,
        local=_slope({length: values[length] for length in (start, end)}).value,
        per_sequence=course.per_sequence,
    )


def _sequences(row: Row, course: Course) -> int:
    return row.case.shape.batch if course.per_sequence else 1


def _over_rounds(course: Course) -> stats.Estimate | None:
    """Fit each round that all lengths have; its processes share a moment of the machine, and no other's noise."""
    rounds = set.intersection(*(set(row.medians) for row in course.rows.values()))
    by_round = [
        {length: row.medians[number] / _sequences(row, course) for length, row in course.rows.items()}
        for number in sorted(rounds)
    ]
    slopes = [_slope(values).value for values in by_round if min(values.values()) > 0]
    return stats.mean_over_seeds(slopes) if slopes else None


def _slope(values: Mapping[int, float]) -> stats.Estimate:
    return stats.slope([math.log(length) for length in values], [math.log(value) for value in values.values()])


def _widest(fitted: stats.Estimate, over_rounds: stats.Estimate | None) -> tuple[float | None, float | None]:
    """Choose the wider interval, and let it hold the exponent that is reported."""
    known = [
        (each.low, each.high)
        for each in (fitted, over_rounds)
        if each and each.low is not None and each.high is not None
    ]
    if not known:
        return None, None
    low, high = max(known, key=lambda interval: interval[1] - interval[0])
    return min(low, fitted.value), max(high, fitted.value)
