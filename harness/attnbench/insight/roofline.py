"""Rates of work from latencies: FLOP/s by two counts, bytes per second, and the share of what the machine could do."""

import numpy as np
from msgspec import Struct

from attnbench.case import Mask
from attnbench.insight.columns import ByRound, Column, Columns
from attnbench.insight.floor import is_harness
from attnbench.insight.rows import Row
from attnbench.record import Rates
from attnbench.stats import FloatArray

_FORWARD = 4  # operations for a pair and a feature: a multiply-add in each of two products
# Five matrix products for the forward pass's two, as the scores are made once more (flash-attention's convention).
_PASSES = {"forward": 1.0, "decode": 1.0, "backward": 2.5, "forward-backward": 3.5}
LEAST_BYTES, OPERAND_BYTES, ABOVE_ROOFLINE = "least_bytes", "operand_bytes", "above_roofline"


class _Work(Struct, frozen=True, eq=False, gc=False):
    """Work of a row's pass, which over its latency gives a rate."""

    metric: str
    unit: str
    amount: float
    flags: tuple[str, ...] = ()


def derived(found: Columns[Row], rates: Rates | None) -> Columns[Row]:
    """Give further rows for latencies whose work is known, with intervals from theirs.

    `flop_rate` is what exact attention needs over the time, `flop_rate_executed` what was executed, `bandwidth` what
    its operations read and wrote, if from a cache; `roofline_share` is the least time that the machine's own rates
    allow over the time taken. A count or a rate that is unknown gives no row. A share above 1 is flagged: a count or a
    rate is wrong.
    """
    seconds = np.array(found.own["value"], dtype=np.float64)
    timed = [
        place
        for place, metric in enumerate(found.cells("metric"))
        if metric == "latency" and seconds[place] > 0 and not is_harness(found.shared[found.places[place]])
    ]
    works = [_works(found.shared[place], rates) for place in found.places[timed].tolist()]
    latencies = np.repeat(np.array(timed, dtype=np.int64), np.array([len(each) for each in works], dtype=np.int64))
    return _per_time(found.take(latencies), [work for each in works for work in each])


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


def _works(row: Row, rates: Rates | None) -> list[_Work]:
    flops, moved, counted_by = map(row.facts.get, ("flops", "bytes_executed", "bytes_by"))
    found = []
    if row.level == "core":  # what is around the mechanism is not exact attention's
        found.append(_Work("flop_rate", "FLOP/s", flops_exact(row)))
    if isinstance(flops, int) and flops:
        found.append(_Work("flop_rate_executed", "FLOP/s", flops))
    if isinstance(moved, int) and moved:
        flags = (OPERAND_BYTES,) if counted_by == "counter" else ()
        found.append(_Work("bandwidth", "bytes/s", moved, flags))
    bound_s = _bound_s(row, flops, rates)
    if bound_s is not None:
        flags = () if counted_by == "variant" else (LEAST_BYTES,)
        found.append(_Work("roofline_share", "1", bound_s, flags))
    return found


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


def _per_time(latencies: Columns[Row], works: list[_Work]) -> Columns[Row]:
    """Divide work by latencies, their intervals and their rounds: the slowest time gives the lowest rate."""
    own = latencies.own
    medians = own["medians"]
    assert isinstance(medians, ByRound)
    amount = np.array([work.amount for work in works], dtype=np.float64)
    value = _rate(amount, own["value"])
    flags = [known + work.flags for known, work in zip(latencies.cells("flags"), works, strict=True)]
    for place in np.flatnonzero(value > 1):
        if works[place].metric == "roofline_share":
            flags[place] += (ABOVE_ROOFLINE,)
    none = np.full(len(works), np.nan)
    return Columns(
        latencies.shared,
        latencies.places,
        own
        | {
            "metric": [work.metric for work in works],
            "unit": [work.unit for work in works],
            "value": value,
            "low": _rate(amount, own["high"]),
            "high": _rate(amount, own["low"]),
            "min": none,
            "p05": _rate(amount, own["p95"]),
            "p95": _rate(amount, own["p05"]),
            "iqr": none,
            "medians": ByRound(medians.rounds, _rate(amount[:, np.newaxis], medians.values_NR)),
            "flags": flags,
            "primary": np.zeros(len(works), dtype=np.bool_),
            "higher_is_better": np.ones(len(works), dtype=np.bool_),
        },
    )


def _rate(amount: FloatArray, seconds: Column) -> FloatArray:
    taken = np.array(seconds, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(taken == 0, np.nan, amount / taken)
