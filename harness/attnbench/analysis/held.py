"""What a mechanism needs in all: the peak of a call, and what it holds between calls (tables, projections, caches)."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from attnbench.analysis.rows import Row
from attnbench.contracts.record import OWN

MEMORY, TOTAL = "memory", "memory_total"
_NEGLIGIBLE = 0.01  # share of the peak; where no variant of a run holds more, its peaks are its totals


def with_totals(rows: Iterable[Row]) -> list[Row]:
    """Return rows with the totals of a run behind its peaks, where a variant holds what matters beside its peak."""
    rows = list(rows)
    held = [(row, _own(row)) for row in rows if row.metric == MEMORY and row.value is not None]
    if not any(own > _NEGLIGIBLE * (row.value or 0) for row, own in held):
        return rows
    behind = 1 + max(index for index, row in enumerate(rows) if row.metric == MEMORY)
    return [*rows[:behind], *(_total(row, own) for row, own in held), *rows[behind:]]


def memory_metric(rows: Sequence[Row]) -> str:
    """Return the metric by which memory is judged: the total where rows have it, else the peak of a call."""
    return TOTAL if any(row.metric == TOTAL for row in rows) else MEMORY


def _own(row: Row) -> int:
    own = row.facts.get(OWN)
    return own if isinstance(own, int) else 0


def _total(row: Row, own: int) -> Row:
    value, low, high, least, p05, p95 = (
        None if each is None else each + own for each in (row.value, row.low, row.high, row.min, row.p05, row.p95)
    )
    medians = {number: median + own for number, median in row.medians.items()}
    return replace(row, metric=TOTAL, value=value, low=low, high=high, min=least, p05=p05, p95=p95, medians=medians)
