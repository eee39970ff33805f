"""A run's own A/A floor: by how much its machine tells apart two measurements of the same thing.

The first variant is timed twice in every round of every case; the true ratio of the two is 1.
"""

import math
from collections.abc import Iterable, Iterator
from statistics import median

from msgspec import Struct

from attnbench.analysis.rows import TWIN, Row
from attnbench.contracts import stats
from attnbench.contracts.stats import FEWEST_REPLICATES
from attnbench.contracts.text import canonical
from attnbench.plugins.empty import FLOOR

_OWN = "attnbench "  # how the harness's own origin begins: a user may call a plugin of his as the floor is called
_METRIC = "latency"
_TWO_SIDED_95 = 1.96
_MEDIAN_OF_NORMAL = 0.6744897501960817  # of absolute values, in standard deviations
_EFFICIENCY = 0.37  # of a standard deviation found by the median: it is worth so many squares


class Floor(Struct, frozen=True, kw_only=True):
    """What a run makes of no difference: how far two measurements of one case lie apart in a round."""

    spread: float  # the standard deviation of their log ratios about zero, by the median over cases and rounds
    ratios: int  # how many those were
    rounds: float  # of a case, on average

    @property
    def share(self) -> float:
        """The difference that 95% of A/A comparisons of an ordinary case stay below, over the run's rounds.

        A share: 0.013 is 1.3%.
        """
        return math.expm1(_TWO_SIDED_95 * self.spread / math.sqrt(self.rounds))

    def p(self, log_ratio: float, rounds: tuple[int, int]) -> float:
        """Say how often identical measurements over so many rounds on either side would differ as much."""
        error = self.spread * math.sqrt(sum(1 / count for count in rounds) / 2)
        return stats.two_sided_p(log_ratio, error, _EFFICIENCY * self.ratios)


def is_harness(row: Row) -> bool:
    """Tell the harness's own cost, which every run measures, from a mechanism's."""
    return row.variant == FLOOR and row.origin.startswith(_OWN)


def aa_floor(rows: Iterable[Row]) -> Floor | None:
    """Find a run's A/A floor, pooled over its cases; null where none was timed twice in at least 3 rounds.

    A case that is much noisier than the others, or one wild round, leaves it as it is: their own intervals tell that.
    """
    cases = [logs for logs in _log_ratios(rows) if len(logs) >= FEWEST_REPLICATES]
    if not cases:
        return None
    apart = [abs(log) for logs in cases for log in logs]
    return Floor(spread=median(apart) / _MEDIAN_OF_NORMAL, ratios=len(apart), rounds=len(apart) / len(cases))


def _log_ratios(rows: Iterable[Row]) -> Iterator[list[float]]:
    """Give of each case timed twice the log ratio of the two times, by round."""
    timed: dict[tuple[object, ...], dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.metric in (_METRIC, _METRIC + TWIN):
            timed.setdefault(_case(row), {})[row.metric] = row.medians
    for both in timed.values():
        first, second = both.get(_METRIC, {}), both.get(_METRIC + TWIN, {})
        shared = [number for number in first if number in second and first[number] > 0 < second[number]]
        yield [math.log(second[number] / first[number]) for number in shared]


def _case(row: Row) -> tuple[object, ...]:
    sizes = (row.seq_q, row.seq_k, row.heads, row.kv_heads, row.head_dim, row.batch)
    mask = (row.causal, row.window)
    plugin = (row.variant, canonical(row.options), row.source)
    return (
        row.run,
        *plugin,
        row.passes,
        row.level,
        *sizes,
        *mask,
        row.dtype,
        row.device,
        row.inputs,
        row.seed,
        row.shape_name,
    )
