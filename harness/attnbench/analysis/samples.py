"""The samples of many figures described at once: one numpy call for all processes that have equally many."""

# N sets of samples, C samples of each; F figures, R processes of each
import math
import struct
from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from attnbench.analysis.columns import ByRound, Words
from attnbench.contracts import stats
from attnbench.contracts.record import Measurement
from attnbench.contracts.stats import FloatArray

_LARGEST = 1e150  # the square of what is larger overflows
_AT_ONCE = 2**16  # samples: half a megabyte
_WAITING = 256  # processes whose samples are packed at once
_BASE_UNITS, _SIZES = {"ns": "s"}, {"ns": 1e9}  # a base unit in those that are stored

Counts = NDArray[np.int64]


class Described(Struct, frozen=True, eq=False):
    """What the samples of each figure are like, in its unit: of its processes their medians, and all together.

    Arrays have one entry a figure, and a last one, for rows that have none; NaN is null. `flags` are those of all its
    processes, and whether `higher` is better its first one says. `estimates` are value, low and
    high, and `spread` how far a repetition would land, both from the medians: where processes repeat one another.
    `quantiles` are those of `stats.quantiles_of_each`, and `values` all samples, a figure's up to its entry of
    `ends`.

    `lost` counts values that are no number, or too large for one; where there are any, the rest is null, and `outliers`
    are none.
    """

    units: Words
    flags: Words
    higher: NDArray[np.bool_]
    processes: Counts
    counts: Counts
    lost: Counts
    outliers: Counts
    medians: ByRound
    quantiles_F6: FloatArray
    estimates_F3: FloatArray
    spread_F: FloatArray
    values: FloatArray
    ends: Counts

    def of(self, figure: int) -> list[float]:
        """Give the samples of a figure, all processes one after another."""
        end = self.ends[figure]
        found: list[float] = self.values[end - self.counts[figure] : end].tolist()
        return found


class Samples:
    """The samples of many figures in one array, those of a process together and the processes of a figure.

    A process is of a round, and a figure has one at most of each.
    """

    def __init__(self) -> None:
        self._values = bytearray()  # as float64
        self._waiting: list[Measurement] = []  # those whose values follow
        self._counts: list[int] = []  # of a process
        self._sizes: list[float] = []  # of a process's unit in the base unit
        self._rounds: list[int] = []  # of a process
        self._processes: list[int] = []  # of a figure
        self._units: list[str] = []  # of a figure
        self._higher: list[bool] = []  # of a figure
        self._flags: list[tuple[str, ...]] = []  # of a figure

    def add(self, by_round: Mapping[int, Measurement]) -> int:
        """Take a figure, given by one measurement a process, none of them empty; give its place among all."""
        measurements = by_round.values()
        flags = [each.flags for each in measurements if each.flags]
        self._flags.append(tuple(dict.fromkeys(chain.from_iterable(flags))) if flags else ())
        self._waiting += measurements
        self._rounds += by_round
        self._processes.append(len(by_round))
        first = next(iter(measurements))
        self._units.append(_BASE_UNITS.get(first.unit, first.unit))
        self._higher.append(first.higher_is_better)
        if len(self._waiting) > _WAITING:
            self._pack()
        return len(self._processes) - 1

    def _pack(self) -> None:
        """Write values as float64, null as NaN: by way of integers, as they are as a rule, in a third of the time."""
        processes = [each.values for each in self._waiting]
        counts = list(map(len, processes))
        try:
            whole = struct.pack(f"{sum(counts)}q", *chain.from_iterable(processes))
            self._values += np.frombuffer(whole, dtype=np.int64).astype(np.float64).tobytes()
        except struct.error:
            values = (math.nan if value is None else value for each in processes for value in each)
            self._values += struct.pack(f"{sum(counts)}d", *values)
        self._counts += counts
        self._sizes += [_SIZES.get(each.unit, 1.0) for each in self._waiting]
        self._waiting.clear()

    def described(self) -> Described:
        """Describe the figures in their order."""
        self._pack()
        processes, counts = np.array(self._processes, dtype=np.int64), np.array(self._counts, dtype=np.int64)
        totals = _sums(counts, _starts(processes))
        samples = np.frombuffer(self._values, dtype=np.float64) / np.repeat(np.array(self._sizes), counts)
        ends = np.cumsum(totals)
        lost = np.bincount(np.searchsorted(ends, _drop_lost(samples), side="right"), minlength=len(totals))
        medians_P, outliers_P = np.empty(len(counts)), np.empty_like(counts)
        for these, samples_NC in _of_one_size(samples, counts):
            medians_P[these], outliers_P[these] = _of_processes(samples_NC)
        quantiles_F6 = np.empty((len(totals), 6))
        for these, samples_NC in _of_one_size(samples, totals):
            quantiles_F6[these] = stats.quantiles_of_each(samples_NC)
        estimates_F3, spread_F = _repeated(medians_P, processes, quantiles_F6, totals)
        rounds, columns = np.unique(np.array(self._rounds, dtype=np.int64), return_inverse=True)
        medians_FR = np.full((len(totals) + 1, len(rounds)), np.nan)
        medians_FR[np.repeat(np.arange(len(totals)), processes), columns] = medians_P
        for figures in (quantiles_F6, estimates_F3, spread_F, medians_FR[:-1]):
            figures[lost > 0] = np.nan
        return Described(
            units=Words.of([*self._units, ""]),
            flags=Words.of([*self._flags, ()]),
            higher=np.array([*self._higher, False], dtype=np.bool_),
            processes=np.append(processes, 0),
            counts=np.append(totals, 0),
            lost=np.append(lost, 0),
            outliers=np.append(np.where(lost, 0, _sums(outliers_P, _starts(processes))), 0),
            medians=ByRound(tuple(rounds.tolist()), medians_FR),
            quantiles_F6=np.vstack([quantiles_F6, np.full(6, np.nan)]),
            estimates_F3=np.vstack([estimates_F3, np.full(3, np.nan)]),
            spread_F=np.append(spread_F, np.nan),
            values=samples,
            ends=np.append(ends, len(samples)),
        )


def _drop_lost(samples: FloatArray) -> Counts:
    """Put a zero in the place of each value that is no number, or too large; say where those stood."""
    lost = [
        first + np.flatnonzero(~(np.abs(samples[first : first + _AT_ONCE]) < _LARGEST))
        for first in range(0, len(samples), _AT_ONCE)
    ]
    places: Counts = np.concatenate([np.zeros(0, dtype=np.int64), *lost])
    samples[places] = 0.0
    return places


def _of_processes(samples_NC: FloatArray) -> tuple[FloatArray, Counts]:
    """Give each process's median, and how many of its samples lie outside its own fences."""
    _, _, p25_N, median_N, p75_N, _ = stats.quantiles_of_each(samples_NC).T
    labels_NC = stats.tukey_labels(samples_NC, p25_N[:, np.newaxis], p75_N[:, np.newaxis])
    return median_N, np.count_nonzero(labels_NC, axis=1)


def _repeated(
    medians: FloatArray, processes: Counts, quantiles_F6: FloatArray, counts: Counts
) -> tuple[FloatArray, FloatArray]:
    """Say of each figure what its processes' medians tell of it, and how far a repetition would land."""
    estimates_F3, spread_F = np.empty((len(processes), 3)), np.empty(len(processes))
    iqr_F = quantiles_F6[:, 4] - quantiles_F6[:, 2]
    for these, medians_NR in _of_one_size(medians, processes):
        estimates_F3[these] = stats.medians_of_processes(medians_NR)
        spread_F[these] = stats.relative_spreads(medians_NR, iqr_F[these], counts[these])
    return estimates_F3, spread_F


def _of_one_size(samples: FloatArray, counts: Counts) -> Iterator[tuple[Counts, FloatArray]]:
    """Give the sets that stand one after another in `samples` by their size, few enough to stay in a cache.

    Each time: their places, and samples_NC.
    """
    starts = _starts(counts)
    for count in np.unique(counts).tolist():
        (places,) = np.nonzero(counts == count)
        step = max(1, _AT_ONCE // count)
        for first in range(0, len(places), step):
            these = places[first : first + step]
            yield these, samples[starts[these][:, np.newaxis] + np.arange(count)]


def _starts(counts: Counts) -> Counts:
    starts: Counts = np.cumsum(counts) - counts
    return starts


def _sums(values: Counts, starts: Counts) -> Counts:
    """Add up runs of values, none of them empty, by where they start."""
    sums: Counts = np.add.reduceat(values, starts) if len(starts) else starts
    return sums
