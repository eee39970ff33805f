"""How latency and memory grow with the sequence length: each variant's curve fitted as a power law."""

import math
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.curves import Curve, curve_groups, stretches
from attnbench.analysis.held import MEMORY, TOTAL
from attnbench.analysis.rows import Row
from attnbench.contracts import stats
from attnbench.contracts.case import Axes, Identity, Option, canonical

METRICS = ("latency", MEMORY, TOTAL)


class Growth(Struct, frozen=True, kw_only=True):
    """A metric of a variant as N^exponent over `lengths`, with a 95% interval; `local` is over the last doubling alone.

    `axes` are all others. Where the batch changes with the length, the cost of one sequence is fitted. `left_out` are
    lengths that were measured, but lie beyond one that failed.
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
    left_out: tuple[int, ...] = ()

    @property
    def identity(self) -> Identity:
        """The variant's identity, as of its rows."""
        return self.variant, canonical(self.options), self.origin


def growths(rows: Iterable[Row], metrics: Iterable[str] = METRICS, *, once: bool = False) -> list[Growth]:
    """Fit every curve of two lengths or more, by least squares on the logarithms.

    Of a variant that failed at a length in between, the longest unbroken stretch is fitted. One round of noisy figures
    shows no exponent: such curves are left out, unless `once` asks for them.

    The interval is the wider of two by Student's t: on the residuals, from three lengths, which shows a deviation from
    a power law; and on the slopes of the rounds, from three rounds, which shows the noise. Null where there is neither.
    """
    wanted = tuple(metrics)
    groups = curve_groups(row for row in rows if row.metric in wanted)
    curves = ((curve, _unbroken(curve), group.axes) for group in groups for curve in group.curves)
    return [
        _growth(fitted, axes, left_out=curve.rows.keys() - fitted.rows.keys())
        for curve, fitted, axes in curves
        if len(fitted.rows) > 1 and (once or _is_repeated(fitted))
    ]


def _is_repeated(curve: Curve) -> bool:
    """Return whether rounds repeat a curve's figures somewhere, or figures are exact."""
    return curve.first.probe.metric.replicates == "none" or any(row.rounds > 1 for row in curve.rows.values())


def _unbroken(curve: Curve) -> Curve:
    """Return the stretch of a curve that has the most lengths, of two equal ones the longer lengths."""
    lengths = max(reversed(list(stretches(curve.rows, curve.failed))), key=len)
    return replace(curve, rows={length: curve.rows[length] for length in lengths})


def _growth(curve: Curve, axes: Axes, *, left_out: Iterable[int]) -> Growth:
    first = curve.first
    values = {length: row.value / _sequences(row, curve) for length, row in curve.rows.items() if row.value}
    fitted = _slope(values)
    low, high = _widest(fitted, _over_rounds(curve))
    end = max(values)
    start = max((length for length in values if 2 * length <= end), default=min(values))
    return Growth(
        run=first.run,
        variant=first.case.variant,
        options=first.case.options,
        origin=first.origin.name,
        metric=first.metric,
        axes=axes,
        lengths=tuple(values),
        exponent=fitted.value,
        low=low,
        high=high,
        local=_slope({length: values[length] for length in (start, end)}).value,
        per_sequence=curve.per_sequence,
        left_out=tuple(sorted(left_out)),
    )


def _sequences(row: Row, curve: Curve) -> int:
    return row.case.shape.batch if curve.per_sequence else 1


def _over_rounds(curve: Curve) -> stats.Estimate | None:
    """Fit each round that all lengths have: its processes share the state of the machine, but no noise."""
    rounds = set.intersection(*(set(row.medians) for row in curve.rows.values()))
    by_round = [
        {length: row.medians[number] / _sequences(row, curve) for length, row in curve.rows.items()}
        for number in sorted(rounds)
    ]
    slopes = [_slope(values).value for values in by_round if min(values.values()) > 0]
    return stats.mean_over_seeds(slopes) if slopes else None


def _slope(values: Mapping[int, float]) -> stats.Estimate:
    return stats.slope([math.log(length) for length in values], [math.log(value) for value in values.values()])


def _widest(fitted: stats.Estimate, over_rounds: stats.Estimate | None) -> tuple[float | None, float | None]:
    """Return the wider interval, extended to contain the reported exponent."""
    intervals = [
        (estimate.low, estimate.high)
        for estimate in (fitted, over_rounds)
        if estimate and estimate.low is not None and estimate.high is not None
    ]
    if not intervals:
        return None, None
    low, high = max(intervals, key=lambda interval: interval[1] - interval[0])
    return min(low, fitted.value), max(high, fitted.value)
