"""Rates of work from latencies: FLOP/s by two counts, bytes per second, and the share of what the machine could do."""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from attnbench.case import Mask
from attnbench.insight.floor import is_harness
from attnbench.insight.rows import Own, Row, Split
from attnbench.record import Rates

_FORWARD = 4  # operations for a pair and a feature: a multiply-add in each of two products
# Five matrix products for the forward pass's two, as the scores are made once more (flash-attention's convention).
_PASSES = {"forward": 1.0, "decode": 1.0, "backward": 2.5, "forward-backward": 3.5}
LEAST_BYTES, OPERAND_BYTES, ABOVE_ROOFLINE = "least_bytes", "operand_bytes", "above_roofline"


def derived(found: Iterable[Split], rates: Rates | None) -> list[Split]:
    """Give further rows for latencies whose work is known, with intervals from theirs.

    `flop_rate` is what exact attention needs over the time, `flop_rate_executed` what was executed, `bandwidth` what
    its operations read and wrote, if from a cache; `roofline_share` is the least time that the machine's own rates
    allow over the time taken. A count or a rate that is unknown gives no row. A share above 1 is flagged: a count or a
    rate is wrong.
    """
    return [
        Split(timed.shared, own)
        for timed in found
        if timed.own.metric == "latency" and timed.own.value and not is_harness(timed.shared)
        for own in _derived(timed, rates)
    ]


def flops_exact(row: Row) -> int:
    """Count the operations that exact attention needs for a row's pass, a multiply-add as two, visible pairs alone."""
    mask = Mask(causal=row.causal, window=row.window)
    pairs = visible_pairs(mask, queries=row.seq_q, keys=row.seq_k)
    return round(_PASSES[row.passes] * _FORWARD * row.batch * row.heads * pairs * row.head_dim)


def visible_pairs(mask: Mask, *, queries: int, keys: int) -> int:
    """Count the pairs of a query and a key that it sees; queries are the last positions of the keys."""
    if not mask.causal and mask.window is None:
        return queries * keys
    width = keys if mask.window is None else mask.window
    up_to_own = _ramp(keys, width) - _ramp(keys - queries, width)
    return up_to_own if mask.causal else up_to_own + _ramp(queries - 1, width - 1)


def _ramp(length: int, limit: int) -> int:
    """Sum min(i, limit) for i from 1 to length."""
    rising = min(length, limit)
    return rising * (rising + 1) // 2 + (length - rising) * limit


def _derived(timed: Split, rates: Rates | None) -> Iterator[Own]:
    row, latency = timed.shared, timed.own
    flops, moved = row.facts.get("flops"), row.facts.get("bytes_executed")
    if row.level == "core":  # what is around the mechanism is not exact attention's
        yield _per_time(latency, "flop_rate", flops_exact(row), unit="FLOP/s")
    if isinstance(flops, int) and flops:
        yield _per_time(latency, "flop_rate_executed", flops, unit="FLOP/s")
    if isinstance(moved, int) and moved:
        flags = (OPERAND_BYTES,) if row.facts.get("bytes_by") == "counter" else ()
        yield _per_time(latency, "bandwidth", moved, unit="bytes/s", flags=flags)
    bound_s = _bound_s(row, flops, rates)
    if bound_s is not None:
        flags = () if row.facts.get("bytes_by") == "variant" else (LEAST_BYTES,)
        share = _per_time(latency, "roofline_share", bound_s, unit="1", flags=flags)
        above = (ABOVE_ROOFLINE,) if share.value is not None and share.value > 1 else ()
        yield replace(share, flags=share.flags + above)


def _bound_s(row: Row, flops: object, rates: Rates | None) -> float | None:
    """Give the least time for the work: that of its products or of its traffic, whichever is longer."""
    moved = bytes_at_least(row)
    if rates is None or not isinstance(flops, int) or moved is None:
        return None
    matrix = rates.flops_per_s.get(row.dtype)
    if not matrix or not rates.bytes_per_s:
        return None
    return max(flops / matrix, moved / rates.bytes_per_s)


def bytes_at_least(row: Row) -> int | None:
    """Give what memory must move: a variant's own count, else inputs and results once.

    What its operations move may stay in a cache, and is less than that where a mechanism leaves inputs unread.
    """
    executed, least = row.facts.get("bytes_executed"), row.facts.get("bytes_least")
    if row.facts.get("bytes_by") == "variant" and isinstance(executed, int):
        return executed
    known = [count for count in (executed, least) if isinstance(count, int)]
    return min(known, default=None)


def _per_time(latency: Own, metric: str, work: float, *, unit: str, flags: tuple[str, ...] = ()) -> Own:
    """Divide work by a latency, its interval and its rounds: the slowest time gives the lowest rate."""
    return replace(
        latency,
        metric=metric,
        unit=unit,
        value=_rate(work, latency.value),
        low=_rate(work, latency.high),
        high=_rate(work, latency.low),
        min=None,
        p05=_rate(work, latency.p95),
        p95=_rate(work, latency.p05),
        iqr=None,
        medians={number: work / seconds for number, seconds in latency.medians.items() if seconds},
        flags=latency.flags + flags,
        primary=False,
        higher_is_better=True,
    )


def _rate(work: float, seconds: float | None) -> float | None:
    return work / seconds if seconds else None
