"""A run's own A/A floor: how far two measurements of the same case differ on its machine.

The first variant is timed twice in every round of every case; the true ratio of the two is 1.
"""

import math
from collections.abc import Iterable, Iterator
from statistics import median

from msgspec import Struct

from attnbench.analysis.rows import TWIN, Row
from attnbench.contracts import stats
from attnbench.contracts.stats import FEWEST_REPLICATES

_METRIC = "latency"
_TWO_SIDED_95 = 1.96
_MEDIAN_OF_NORMAL = 0.6744897501960817  # of absolute values, in standard deviations
_EFFICIENCY = 0.37  # squares that a ratio is worth where the median estimates the standard deviation


class Floor(Struct, frozen=True, kw_only=True):
    """The distribution of log ratios between two measurements of the same case in the same round."""

    spread: float  # standard deviation about zero, from the median absolute value over cases and rounds
    ratios: int  # number of log ratios
    rounds: float  # of a case, on average

    @property
    def share(self) -> float:
        """The relative difference that 95% of A/A comparisons stay below, over the run's rounds: 0.013 is 1.3%."""
        return math.expm1(_TWO_SIDED_95 * self.spread / math.sqrt(self.rounds))

    def p(self, log_ratio: float, rounds: tuple[int, int]) -> float:
        """Return the probability that identical measurements over these rounds of either side differ as much."""
        error = self.spread * math.sqrt(sum(1 / count for count in rounds) / 2)
        return stats.two_sided_p(log_ratio, error, _EFFICIENCY * self.ratios)


def aa_floor(rows: Iterable[Row]) -> Floor | None:
    """Return a run's A/A floor, pooled over its cases; None if none was timed twice in at least 3 rounds.

    A case much noisier than the others, or one wild round, does not move it; their own intervals show that noise.
    """
    cases = [logs for logs in _log_ratios(rows) if len(logs) >= FEWEST_REPLICATES]
    if not cases:
        return None
    distances = [abs(log) for logs in cases for log in logs]
    return Floor(
        spread=median(distances) / _MEDIAN_OF_NORMAL, ratios=len(distances), rounds=len(distances) / len(cases)
    )


def _log_ratios(rows: Iterable[Row]) -> Iterator[list[float]]:
    """Yield for each case timed twice the log ratio of the two times, by round."""
    timed: dict[tuple[object, ...], dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.metric in (_METRIC, _METRIC + TWIN):
            key = (row.run, *row.case.identity, row.origin.sources, *row.case.axes().values())
            timed.setdefault(key, {})[row.metric] = row.medians
    for medians in timed.values():
        first, second = medians.get(_METRIC, {}), medians.get(_METRIC + TWIN, {})
        shared = [number for number in first if number in second and first[number] > 0 < second[number]]
        yield [math.log(second[number] / first[number]) for number in shared]
