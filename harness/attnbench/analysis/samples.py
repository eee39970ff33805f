"""Statistics of the samples of many metrics at once: processes with equally many samples are computed together."""

# N processes or metrics of one size, C samples of a process, R rounds, 6 quantiles, 3 value and interval
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from attnbench.analysis.groups import group_by
from attnbench.contracts import stats
from attnbench.contracts.record import Measurement
from attnbench.contracts.stats import Estimate, FloatArray

_LARGEST = 1e150  # the square of a larger sample overflows


class Statistics(Struct, frozen=True, kw_only=True):
    """Statistics of one metric over the rounds of a job; null where too few samples leave one undefined."""

    samples: FloatArray  # of all rounds, in the base unit
    lost: int  # samples that are not finite; they count as zero
    estimate: Estimate
    quantiles: list[float]  # minimum, 5%, 25%, 50%, 75% and 95%
    spread: float | None
    medians: list[float]  # of each round
    outliers: int


def statistics_of(metrics: Sequence[Sequence[Measurement]]) -> Iterator[Statistics]:
    """Yield the statistics of each metric, from its measurements by round."""
    processes = [_in_base_unit(measurement) for rounds in metrics for measurement in rounds]
    lost = np.array([_drop_lost(samples) for samples in processes])
    medians, outliers = _of_processes(processes)
    ends = np.cumsum([len(rounds) for rounds in metrics]).tolist()
    spans = [slice(end - len(rounds), end) for end, rounds in zip(ends, metrics, strict=True)]
    pooled = [np.concatenate(processes[span]) for span in spans]
    quantiles_N6, estimates_N3, spreads_N = np.empty((len(spans), 6)), np.empty((len(spans), 3)), np.empty(len(spans))
    for indices, samples_NC in _by_size(pooled):
        quantiles_N6[indices] = stats.quantiles_of_each(samples_NC)
    counts_N, iqr_N = np.array([len(samples) for samples in pooled]), quantiles_N6[:, 4] - quantiles_N6[:, 2]
    for indices, medians_NR in _by_size([medians[span] for span in spans]):
        estimates_N3[indices] = stats.medians_of_processes(medians_NR)
        spreads_N[indices] = stats.relative_spreads(medians_NR, iqr_N[indices], counts_N[indices])
    for index, span in enumerate(spans):
        value, low, high = estimates_N3[index].tolist()
        yield Statistics(
            samples=pooled[index],
            lost=int(lost[span].sum()),
            estimate=Estimate(value, _or_none(low), _or_none(high)),
            quantiles=quantiles_N6[index].tolist(),
            spread=_or_none(spreads_N[index].item()),
            medians=medians[span].tolist(),
            outliers=int(outliers[span].sum()),
        )


def _of_processes(processes: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return the median and the number of outliers of each process."""
    medians, outliers = np.empty(len(processes)), np.empty(len(processes))
    for indices, samples_NC in _by_size(processes):
        quantiles_N6 = stats.quantiles_of_each(samples_NC)
        medians[indices] = quantiles_N6[:, 3]
        labels_NC = stats.tukey_labels(samples_NC, quantiles_N6[:, 2:3], quantiles_N6[:, 4:5])
        outliers[indices] = np.count_nonzero(labels_NC, axis=1)
    return medians, outliers


def _in_base_unit(measurement: Measurement) -> FloatArray:
    """Return the samples in their base unit; null becomes NaN."""
    samples = np.array(measurement.values, dtype=np.float64)
    return samples / 1e9 if measurement.unit == "ns" else samples


def _drop_lost(samples: FloatArray) -> int:
    """Set each sample that is not finite, or too large to square, to zero; return their number."""
    is_lost = ~(np.abs(samples) < _LARGEST)
    samples[is_lost] = 0.0
    return int(np.count_nonzero(is_lost))


def _by_size(arrays: Sequence[FloatArray]) -> Iterator[tuple[list[int], FloatArray]]:
    """Yield the arrays of each size, stacked, with their indices."""
    for indices in group_by(range(len(arrays)), lambda index: len(arrays[index])).values():
        yield indices, np.stack([arrays[index] for index in indices])


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
