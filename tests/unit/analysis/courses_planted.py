"""Rows of latencies along sequence lengths, planted with a cost and a noise."""

import math
import random
from collections.abc import Callable, Mapping

import msgspec

from attnbench.analysis.rows import Row, rows
from attnbench.contracts import stats
from attnbench.contracts.case import Option
from unit.report.planted import job, record, value

LENGTHS = (512, 1024, 2048, 4096)
Cost = Callable[[int], float]


def row(
    variant: str,
    seq: int,
    times: list[float],
    metric: str = "latency",
    *,
    run: str = "r1",
    facts: dict[str, Option] | None = None,
    **changes: object,
) -> Row:
    """Make the row of one variant at one length from the medians of its rounds; `changes` are those of `job`."""
    kind = metric if metric in ("latency", "memory") else "latency"
    (base,) = rows([record(job(variant, kind, seq=seq, **changes), value(1, metric), run=run, facts=facts or {})])
    estimate = stats.median_of_processes(times)
    return msgspec.structs.replace(
        base,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        medians=dict(enumerate(times, 1)),
        rounds=len(times),
        samples=20 * len(times),
    )


def sweep(
    costs: Mapping[str, Cost],
    *,
    rounds: int = 5,
    noise: float = 0.0,
    lengths: tuple[int, ...] = LENGTHS,
    seed: int = 0,
    **changes: object,
) -> list[Row]:
    """Make the rows of variants over lengths; processes differ by `noise` (a share), rounds share a drift."""
    lot = random.Random(seed)
    drift = [lot.gauss(0, noise) for _ in range(rounds)]
    return [
        row(name, seq, [cost(seq) * math.exp(each + lot.gauss(0, noise)) for each in drift], **changes)
        for seq in lengths
        for name, cost in costs.items()
    ]
