"""The samples of many figures described at once: one numpy call for all processes that have equally many."""

# N sets of samples, C samples of each
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from attnbench import stats
from attnbench.record import Measurement
from attnbench.stats import Estimate, FloatArray, Quantiles

_LARGEST = 1e150  # the square of what is larger overflows
_BASE_UNIT = {"ns": ("s", 1e9)}

Counts = NDArray[np.int64]


class Described(Struct, frozen=True, eq=False):
    """What the samples of one figure are like, in its unit: the median of each of its processes, and all together.

    `estimate` and `spread` are those of the medians: where processes repeat one another.

    `lost` counts values that are no number, or too large for one; where there are any, the rest means nothing.
    """

    unit: str
    samples: FloatArray
    lost: int
    outliers: int
    medians: list[float]
    pooled: Quantiles
    estimate: Estimate
    spread: float | None


def described(figures: Sequence[Sequence[Measurement]]) -> list[Described]:
    """Describe figures in their order, each given by one measurement a process, none of them empty."""
    if not figures:
        return []
    measured = list(chain.from_iterable(figures))
    counts = np.array([len(each.values) for each in measured])
    processes = np.array([len(figure) for figure in figures])
    first = _starts(processes)
    totals = np.add.reduceat(counts, first)
    samples, starts = _in_base_units(measured, counts), _starts(totals)
    usable = np.abs(samples) < _LARGEST
    kept = np.where(usable, samples, 0.0)
    medians, outliers = _of_processes(kept, counts)
    pooled = _pooled(kept, totals)
    estimates, spreads = _repeated(medians, processes, pooled)
    told = zip(
        [_base_unit(figure[0].unit)[0] for figure in figures],
        [samples[start:end] for start, end in zip(starts.tolist(), (starts + totals).tolist(), strict=True)],
        (totals - np.add.reduceat(usable.astype(np.int64), starts)).tolist(),
        np.add.reduceat(outliers, first).tolist(),
        [medians[start:end].tolist() for start, end in zip(first.tolist(), (first + processes).tolist(), strict=True)],
        pooled,
        estimates,
        spreads,
        strict=True,
    )
    return [Described(*each) for each in told]


def _base_unit(unit: str) -> tuple[str, float]:
    return _BASE_UNIT.get(unit, (unit, 1.0))


def _in_base_units(measured: Sequence[Measurement], counts: Counts) -> FloatArray:
    values = list(chain.from_iterable([each.values for each in measured]))
    sizes = np.array([_base_unit(each.unit)[1] for each in measured])
    samples = np.array(values, dtype=np.float64)  # null is now NaN
    samples /= np.repeat(sizes, counts)
    return samples


def _of_processes(samples: FloatArray, counts: Counts) -> tuple[FloatArray, Counts]:
    """Give each process's median, and how many of its samples lie outside its own fences."""
    medians, outliers = np.empty(len(counts)), np.empty(len(counts), dtype=np.int64)
    for these, samples_NC in _of_one_size(samples, counts):
        _, _, p25_N, median_N, p75_N, _ = stats.quantiles_of_each(samples_NC).T
        labels_NC = stats.tukey_labels(samples_NC, p25_N[:, np.newaxis], p75_N[:, np.newaxis])
        medians[these], outliers[these] = median_N, np.count_nonzero(labels_NC, axis=1)
    return medians, outliers


def _pooled(samples: FloatArray, counts: Counts) -> list[Quantiles]:
    found = np.empty((len(counts), 6))
    for these, samples_NC in _of_one_size(samples, counts):
        found[these] = stats.quantiles_of_each(samples_NC)
    return [Quantiles(count, *row) for count, row in zip(counts.tolist(), found.tolist(), strict=True)]


def _repeated(
    medians: FloatArray, counts: Counts, pooled: Sequence[Quantiles]
) -> tuple[list[Estimate], list[float | None]]:
    """Say of each figure what its processes' medians tell of it, and how far a repetition would land."""
    estimates: dict[int, Estimate] = {}
    spreads: dict[int, float | None] = {}
    for these, medians_NR in _of_one_size(medians, counts):
        places = these.tolist()
        estimates |= zip(places, stats.medians_of_processes(medians_NR), strict=True)
        spreads |= zip(places, stats.relative_spreads(medians_NR, [pooled[each] for each in places]), strict=True)
    return [estimates[place] for place in range(len(counts))], [spreads[place] for place in range(len(counts))]


def _of_one_size(samples: FloatArray, counts: Counts) -> Iterator[tuple[Counts, FloatArray]]:
    """Give the sets that stand one after another in `samples` by their size: their places, and samples_NC."""
    starts = _starts(counts)
    for count in np.unique(counts).tolist():
        (these,) = np.nonzero(counts == count)
        yield these, samples[starts[these][:, np.newaxis] + np.arange(count)]


def _starts(counts: Sequence[int] | Counts) -> Counts:
    starts: Counts = np.cumsum(counts) - np.asarray(counts)
    return starts
