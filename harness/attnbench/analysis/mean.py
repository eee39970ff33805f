"""One figure for a whole sweep: the geometric mean of its ratios, with an interval that holds for the mean."""

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from attnbench.analysis.match import Pair
from attnbench.contracts import stats
from attnbench.contracts.stats import FEWEST_REPLICATES


class Mean(Struct, frozen=True, kw_only=True):
    """The geometric mean of new over base over so many cells; the interval is null below 3 rounds of all cells."""

    ratio: float
    low: float | None = None
    high: float | None = None
    cells: int


def geometric_mean(pairs: Iterable[Pair]) -> Mean | None:
    """Average the log ratios of the latencies over cells, null where there are none.

    Cells are averaged within a round and rounds are the replicates: paired in one run, by Welch's t across two. What
    the cells of a round have in common is so counted once, not once for each cell.
    """
    timed = [pair for pair in pairs if pair.metric == "latency" and not pair.obstacle and _positive(pair)]
    told = [pair for pair in timed if min(map(len, pair.rounds)) >= FEWEST_REPLICATES]
    base, new = (_levels([pair.rounds[side] for pair in told]) for side in (0, 1))
    if min(len(base), len(new)) < FEWEST_REPLICATES:
        return _without_interval(timed)
    if told[0].paired:
        found = stats.paired([after - before for before, after in zip(base, new, strict=True)])
    else:
        found = stats.welch(base, new)
    return Mean(ratio=math.exp(found.estimate), low=math.exp(found.low), high=math.exp(found.high), cells=len(told))


def _levels(cells: Sequence[dict[int, float]]) -> list[float]:
    """Average the logarithms over cells in each round that all of them have."""
    shared = sorted(set.intersection(*(set(cell) for cell in cells))) if cells else []
    return [math.fsum(math.log(cell[number]) for cell in cells) / len(cells) for number in shared]


def _without_interval(timed: Sequence[Pair]) -> Mean | None:
    logs = [
        math.log(pair.new.value / pair.base.value)
        for pair in timed
        if pair.new and pair.base and pair.new.value and pair.base.value
    ]
    return Mean(ratio=math.exp(math.fsum(logs) / len(logs)), cells=len(logs)) if logs else None


def _positive(pair: Pair) -> bool:
    return all(row is not None and min(row.medians.values(), default=0) > 0 for row in (pair.base, pair.new))
