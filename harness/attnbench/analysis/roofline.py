"""Rates of work from latencies: FLOP/s by two counts, bytes per second, and the share of what the machine could do."""

import math

import numpy as np

from attnbench.analysis.columns import ByRound, Column, Columns, Words
from attnbench.analysis.floor import is_harness
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Mask
from attnbench.contracts.record import Rates
from attnbench.contracts.stats import FloatArray

_FORWARD = 4  # operations for a pair and a feature: a multiply-add in each of two products
# Five matrix products for the forward pass's two, as the scores are made once more (flash-attention's convention).
_PASSES = {"forward": 1.0, "decode": 1.0, "backward": 2.5, "forward-backward": 3.5}
LEAST_BYTES, OPERAND_BYTES, ABOVE_ROOFLINE = "least_bytes", "operand_bytes", "above_roofline"

# What is derived, by what its work is; and in which unit.
_METRICS = ("flop_rate", "flop_rate_executed", "bandwidth", "roofline_share")
_UNITS = ("FLOP/s", "FLOP/s", "bytes/s", "1")

Flags = tuple[str, ...]


def derived(found: Columns[Row], rates: Rates | None) -> Columns[Row]:
    """Give further rows for latencies whose work is known, with intervals from theirs.

    `flop_rate` is what exact attention needs over the time, `flop_rate_executed` what was executed, `bandwidth` what
    its operations read and wrote, if from a cache; `roofline_share` is the least time that the machine's own rates
    allow over the time taken. A count or a rate that is unknown gives no row. A share above 1 is flagged: a count or a
    rate is wrong.
    """
    seconds = np.array(found.own["value"], dtype=np.float64)
    timed = [
        (place, row)
        for place in np.flatnonzero(found.words("metric").are("latency") & (seconds > 0)).tolist()
        if not is_harness(row := found.shared[found.places[place]])
    ]
    works_NM = np.array([_works(row, rates) for _, row in timed], dtype=np.float64).reshape(-1, len(_METRICS))
    counted_by = Words.of(row.facts.get("bytes_by") for _, row in timed)
    which, metrics = np.nonzero(~np.isnan(works_NM))
    latencies = found.take(np.array([place for place, _ in timed], dtype=np.int64)[which])
    return _per_time(latencies, works_NM[which, metrics], Words(_METRICS, metrics), counted_by.take(which))


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


def _works(row: Row, rates: Rates | None) -> tuple[float, float, float, float]:
    """Give the work of a row's pass which over its latency gives each metric; NaN where it is unknown."""
    flops, moved = row.facts.get("flops"), row.facts.get("bytes_executed")
    return (
        flops_exact(row) if row.level == "core" else math.nan,  # what is around the mechanism is not exact attention's
        flops if isinstance(flops, int) and flops else math.nan,
        moved if isinstance(moved, int) and moved else math.nan,
        _bound_s(row, flops, rates),
    )


def _bound_s(row: Row, flops: object, rates: Rates | None) -> float:
    """Give the least time for the work: that of its products or of its traffic, whichever is longer; NaN if unknown."""
    moved = bytes_at_least(row)
    if rates is None or not isinstance(flops, int) or moved is None:
        return math.nan
    matrix = rates.flops_per_s.get(row.dtype)
    if not matrix or not rates.bytes_per_s:
        return math.nan
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


def _per_time(latencies: Columns[Row], works: FloatArray, metrics: Words, counted_by: Words) -> Columns[Row]:
    """Divide work by latencies, their intervals and their rounds: the slowest time gives the lowest rate."""
    own = latencies.own
    medians = own["medians"]
    assert isinstance(medians, ByRound)
    value = _rate(works, own["value"])
    above = Words((False, True), (value > 1).astype(np.int64))
    none = np.full(len(works), np.nan)
    return Columns(
        latencies.shared,
        latencies.places,
        own
        | {
            "metric": metrics,
            "unit": Words(_UNITS, metrics.places),
            "value": value,
            "low": _rate(works, own["high"]),
            "high": _rate(works, own["low"]),
            "min": none,
            "p05": _rate(works, own["p95"]),
            "p95": _rate(works, own["p05"]),
            "iqr": none,
            "medians": ByRound(medians.rounds, _rate(works[:, np.newaxis], medians.values_NR)),
            "flags": Words.combined(_flags, latencies.words("flags"), metrics, counted_by, above),
            "primary": np.zeros(len(works), dtype=np.bool_),
            "higher_is_better": np.ones(len(works), dtype=np.bool_),
        },
    )


def _flags(known: Flags, metric: str, counted_by: object, above: bool) -> Flags:
    """Say beside a latency's own flags whose count of bytes its rate is made of, and that a share is too large."""
    if metric == "bandwidth" and counted_by == "counter":
        return (*known, OPERAND_BYTES)
    if metric != "roofline_share":
        return known
    return (*known, *(LEAST_BYTES,) * (counted_by != "variant"), *(ABOVE_ROOFLINE,) * above)


def _rate(amount: FloatArray, seconds: Column) -> FloatArray:
    taken = np.array(seconds, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(taken == 0, np.nan, amount / taken)
