"""Rates of work from latencies: FLOP/s by two counts, bytes per second, and the share of the machine's own rates."""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from attnbench.analysis.floor import is_harness
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Mask
from attnbench.contracts.metrics import METRICS
from attnbench.contracts.record import Rates

_FORWARD = 4  # operations for a pair and a feature: a multiply-add in each of two products
# Five matrix products for the forward pass's two, as the scores are made once more (flash-attention's convention).
_PASSES = {"forward": 1.0, "decode": 1.0, "backward": 2.5, "forward-backward": 3.5}
LEAST_BYTES, OPERAND_BYTES, ABOVE_ROOFLINE = "least_bytes", "operand_bytes", "above_roofline"


def derived(rows: Iterable[Row], rates: Rates | None) -> list[Row]:
    """Return further rows for latencies whose work is known, with intervals from theirs.

    `flop_rate` is the operations that exact attention needs over the time, `flop_rate_executed` those executed,
    `bandwidth` the bytes that its operations read and wrote, cached or not; `roofline_share` is the least time that the
    machine's own rates allow over the time taken. An unknown count or rate gives no row. A share above 1 is flagged: a
    count or a rate is wrong.
    """
    timed = [row for row in rows if row.metric == "latency" and (row.value or 0) > 0 and not is_harness(row)]
    return [_per_time(row, metric, work) for row in timed for metric, work in _works(row, rates) if work is not None]


def flops_exact(row: Row) -> int:
    """Return the operations that exact attention needs for a row's pass: a multiply-add is two, visible pairs alone."""
    shape = row.case.shape
    pairs = visible_pairs(row.case.mask, queries=shape.seq_q, keys=shape.seq_k)
    return round(_PASSES[row.case.passes] * _FORWARD * shape.batch * shape.heads * pairs * shape.head_dim)


def visible_pairs(mask: Mask, *, queries: int, keys: int) -> int:
    """Return the number of pairs of a query and a key that it sees; queries are the last positions of the keys."""
    if not mask.causal and mask.window is None:
        return queries * keys
    width = keys if mask.window is None else mask.window
    up_to_own = _ramp(keys, width) - _ramp(keys - queries, width)
    return up_to_own if mask.causal else up_to_own + _ramp(queries - 1, width - 1)


def _ramp(length: int, limit: int) -> int:
    """Return the sum of min(i, limit) for i from 1 to length."""
    rising = min(length, limit)
    return rising * (rising + 1) // 2 + (length - rising) * limit


def _works(row: Row, rates: Rates | None) -> Iterator[tuple[str, float | None]]:
    """Return the work of a row's pass that over its latency gives each metric; None where it is unknown."""
    flops, moved = row.facts.get("flops"), row.facts.get("bytes_executed")
    if row.case.level == "core":  # what is around the mechanism is not exact attention's
        yield "flop_rate", flops_exact(row)
    yield "flop_rate_executed", flops if isinstance(flops, int) and flops else None
    yield "bandwidth", moved if isinstance(moved, int) and moved else None
    yield "roofline_share", _bound_s(row, flops, rates)


def _bound_s(row: Row, flops: object, rates: Rates | None) -> float | None:
    """Return the least time for the work: that of its products or of its traffic, whichever is longer."""
    moved = bytes_at_least(row)
    if rates is None or not isinstance(flops, int) or moved is None:
        return None
    matrix = rates.flops_per_s.get(row.case.dtype)
    if not matrix or not rates.bytes_per_s:
        return None
    return max(flops / matrix, moved / rates.bytes_per_s)


def bytes_at_least(row: Row) -> int | None:
    """Return what memory must move: a variant's own count, else inputs and results once.

    What its operations move may stay in a cache, and is less than that where a mechanism leaves inputs unread.
    """
    executed, least = row.facts.get("bytes_executed"), row.facts.get("bytes_least")
    if row.facts.get("bytes_by") == "variant" and isinstance(executed, int):
        return executed
    known = [count for count in (executed, least) if isinstance(count, int)]
    return min(known, default=None)


def _per_time(latency: Row, metric: str, work: float) -> Row:
    """Return work over a latency, its interval and its rounds: the slowest time gives the lowest rate."""
    value = _rate(work, latency.value)
    assert value is not None
    return replace(
        latency,
        metric=metric,
        unit=METRICS[metric].unit,
        value=value,
        low=_rate(work, latency.high),
        high=_rate(work, latency.low),
        min=None,
        p05=_rate(work, latency.p95),
        p95=_rate(work, latency.p05),
        iqr=None,
        medians={number: rate for number, seconds in latency.medians.items() if (rate := _rate(work, seconds))},
        flags=(*latency.flags, *_flags(latency, metric, above=value > 1)),
        primary=False,
        higher_is_better=METRICS[metric].higher_is_better,
    )


def _flags(latency: Row, metric: str, *, above: bool) -> Iterator[str]:
    """Return whose count of bytes a rate is made of, and whether a share is too large."""
    counted_by = latency.facts.get("bytes_by")
    if metric == "bandwidth" and counted_by == "counter":
        yield OPERAND_BYTES
    if metric == "roofline_share":
        yield from (LEAST_BYTES,) * (counted_by != "variant")
        yield from (ABOVE_ROOFLINE,) * above


def _rate(work: float, seconds: float | None) -> float | None:
    return work / seconds if seconds else None
