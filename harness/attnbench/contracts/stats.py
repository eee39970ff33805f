"""Statistics of replicated measurements: pure functions from raw values to a figure and how sure it is.

The replicate is the process, of which a round has one for each case: samples of one process share its memory layout
and its moment, so that their number says nothing about the next process.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Noise = Literal["", "clean", "noisy", "unusable"]
NOISES: tuple[Noise, ...] = get_args(Noise)
FloatArray = NDArray[np.float64]

CLEAN = 0.02
NOISY = 0.10
FEWEST_REPLICATES = 3
_CONFIDENCE = 0.95
_CONFIDENCE_OF_EQUALITY = 0.90  # both of two one-sided tests at 5%
# Half the width of a 95% interval by Student's t in standard errors, by degrees of freedom: those of the rounds that
# profiles ask for, as scipy gives them, which takes 0.1 s to be imported.
T_FACTORS: dict[float, float] = {
    2: 4.302652729749462,
    3: 3.1824463052837078,
    4: 2.7764451051977934,
    5: 2.5705818356363146,
    6: 2.4469118511449786,
    7: 2.364624251592784,
    8: 2.306004135204166,
    9: 2.262157162798205,
}
_MILD, _SEVERE = 1.5, 3.0
_SHARES = (0, 0.05, 0.25, 0.5, 0.75, 0.95)  # below the quantiles of Quantiles
_IQR_OF_NORMAL = 1.3489795003921634  # interquartile range of a normal distribution in standard deviations
_LARGEST_LOG = math.log(np.finfo(np.float64).max)


class Estimate(Struct, frozen=True):
    """A figure with its 95% interval; the interval is null where the replicates are too few to give one."""

    value: float
    low: float | None = None
    high: float | None = None


class Difference(Struct, frozen=True, kw_only=True):
    """A mean difference: its 95% interval, its 90% interval for a claim of equality, and the two-sided p-value."""

    estimate: float
    low: float
    high: float
    low90: float
    high90: float
    p: float


class Quantiles(Struct, frozen=True):
    """Where the samples of a process lie, interpolated linearly between neighbours as numpy.quantile does."""

    count: int
    min: float
    p05: float
    p25: float
    median: float
    p75: float
    p95: float

    @property
    def iqr(self) -> float:
        """The width of the middle half."""
        return self.p75 - self.p25


def quantiles(samples: FloatArray) -> Quantiles:
    """Describe at least one sample by its quantiles."""
    (found,) = quantiles_of_each(samples[np.newaxis]).tolist()
    return Quantiles(samples.size, *found)


def quantiles_of_each(samples_NC: FloatArray) -> FloatArray:
    """Describe N sets of equally many samples at once: the fields of Quantiles that follow `count`, [N, 6]."""
    ordered_NC = np.sort(samples_NC, axis=1)
    return np.stack([_quantile(ordered_NC, share) for share in _SHARES], axis=1)


def median_of_processes(medians: Sequence[float]) -> Estimate:
    """Give the median of the process medians, with a 95% interval by Student's t on their logarithms.

    The interval is null below 3 processes (a bootstrap of 3 covers 76%, not 95), and where a value that is zero or
    negative has no logarithm. Identical values have an interval of no width. Where the medians fall into two camps the
    interval, which is centred on their geometric mean, is widened to hold the median.
    """
    value, low, high = medians_of_processes(np.array([medians], dtype=np.float64))[0].tolist()
    return Estimate(value) if math.isnan(low) else Estimate(value, low, high)


def medians_of_processes(medians_NR: FloatArray) -> FloatArray:
    """Give the same of N figures with R processes each: value, low and high, [N, 3]; an end that is null is NaN."""
    value_N = _medians(medians_NR)
    if medians_NR.shape[1] < FEWEST_REPLICATES:
        return np.stack([value_N, *np.full((2, len(value_N)), np.nan)], axis=1)
    least_N, most_N = medians_NR.min(axis=1), medians_NR.max(axis=1)
    known_N = least_N > 0
    logs_NR = _each(math.log, np.where(known_N[:, np.newaxis], medians_NR, 1.0))
    centre_N = _means(logs_NR)
    half_N = _t_factor(medians_NR.shape[1] - 1) * _deviations(logs_NR) / math.sqrt(medians_NR.shape[1])
    known_N &= centre_N + half_N <= _LARGEST_LOG
    low_N, high_N = (_each(math.exp, np.where(known_N, end_N, 0.0)) for end_N in (centre_N - half_N, centre_N + half_N))
    ends_N2 = np.stack([np.minimum(value_N, low_N), np.maximum(value_N, high_N)], axis=1)
    ends_N2[~known_N] = np.nan
    same_N = least_N == most_N
    ends_N2[same_N] = value_N[same_N, np.newaxis]
    return np.column_stack([value_N, ends_N2])


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Give the plain mean with a 95% interval by Student's t; null below 3 seeds.

    The interval of a bounded score may reach past its bound: it says how far the mean is known, no more.
    """
    if len(values) < FEWEST_REPLICATES:
        return Estimate(_mean(values))
    if min(values) == max(values):
        return Estimate(values[0], values[0], values[0])
    centre, half = _t_interval(values)
    return Estimate(centre, centre - half, centre + half)


def paired(differences: Sequence[float]) -> Difference:
    """Test by Student's t whether the mean of at least two differences is zero: one a round, as of log times.

    What both sides of a round share, its drift above all, is gone from their difference.
    """
    count = len(differences)
    return _difference(_mean(differences), _deviation(differences) / math.sqrt(count), count - 1)


def welch(base: Sequence[float], new: Sequence[float]) -> Difference:
    """Test by Welch's t whether the means of two samples of at least two values differ; new less base."""
    shares = [_deviation(values) ** 2 / len(values) for values in (base, new)]
    error = math.sqrt(sum(shares))
    parts = sum(share**2 / (len(values) - 1) for share, values in zip(shares, (base, new), strict=True))
    degrees = sum(shares) ** 2 / parts if parts else float(len(base) + len(new) - 2)
    return _difference(_mean(new) - _mean(base), error, degrees)


def two_sided_p(estimate: float, error: float, degrees: float) -> float:
    """Say how often Student's t would put an estimate as far from zero; without any error it cannot."""
    from scipy.special import stdtr  # here, because it costs 0.2 s

    return 2 * float(stdtr(degrees, -abs(estimate / error))) if error else float(estimate == 0)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of one family for their number (Benjamini and Hochberg 1995, procedure 1), in their order.

    Calling those at or below q significant holds the expected share of false ones among them to q; where no effect
    is real, that is the chance that any is called significant.
    """
    count, least = len(p_values), 1.0
    adjusted = [1.0] * count
    for rank, place in reversed(list(enumerate(sorted(range(count), key=p_values.__getitem__), start=1))):
        least = min(least, p_values[place] * count / rank)
        adjusted[place] = least
    return adjusted


def slope(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Fit a line through points of at least two x by least squares; give its slope.

    The 95% interval is Student's t on the residuals; null for two points, which leave none.
    """
    centre_x, centre_y = _mean(x), _mean(y)
    squares = math.fsum((each - centre_x) ** 2 for each in x)
    value = math.fsum((a - centre_x) * (b - centre_y) for a, b in zip(x, y, strict=True)) / squares
    if len(x) < 3:
        return Estimate(value)
    residuals = (b - centre_y - value * (a - centre_x) for a, b in zip(x, y, strict=True))
    error = math.sqrt(math.fsum(each**2 for each in residuals) / (len(x) - 2) / squares)
    half = _t_factor(len(x) - 2) * error
    return Estimate(value, value - half, value + half)


def tukey_labels(samples: FloatArray, p25: float | FloatArray, p75: float | FloatArray) -> NDArray[np.int8]:
    """Label the samples of a process: 0 inside, 1 a mild outlier (over 1.5 IQR outside the quartiles), 2 severe (3).

    Quartiles of many processes are arrays that broadcast against their samples.
    """
    outside, iqr = np.maximum(p25 - samples, samples - p75), p75 - p25
    mild, severe = outside > _MILD * iqr, outside > _SEVERE * iqr
    return mild.astype(np.int8) + severe.astype(np.int8)


def relative_spread(medians: Sequence[float], samples: Quantiles) -> float | None:
    """Say how far a repetition would land, as a share of the figure: a standard deviation over the median.

    With two or more processes it is the sample standard deviation of their medians. With one it is that of a normal
    distribution with the samples' IQR (a single slow sample must not decide), which cannot see what differs between
    processes and so flatters. Null for a single sample, and around zero.
    """
    iqr_N, counts_N = np.array([samples.iqr]), np.array([samples.count])
    (spread,) = relative_spreads(np.array([medians], dtype=np.float64), iqr_N, counts_N).tolist()
    return None if math.isnan(spread) else spread


def relative_spreads(medians_NR: FloatArray, iqr_N: FloatArray, counts_N: NDArray[np.int64]) -> FloatArray:
    """Say the same of N figures with R processes each, with the IQR and the number of their samples; NaN for null."""
    if medians_NR.shape[1] > 1:
        same_N = medians_NR.min(axis=1) == medians_NR.max(axis=1)
        deviations_N = np.where(same_N, 0.0, _deviations(medians_NR))
    else:
        deviations_N = np.where(counts_N > 1, iqr_N / _IQR_OF_NORMAL, np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        spreads_N = np.where(deviations_N == 0, 0.0, deviations_N / np.abs(_medians(medians_NR)))
    return np.where(np.isfinite(spreads_N), spreads_N, np.nan)


def noise_verdicts(spreads_N: FloatArray) -> NDArray[np.int64]:
    """Judge relative spreads, by places in NOISES: clean up to 2%, noisy up to 10%, unusable above, empty for NaN."""
    verdicts: NDArray[np.int64] = np.where(np.isnan(spreads_N), 0, 1 + (spreads_N > CLEAN) + (spreads_N > NOISY))
    return verdicts


def _t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Give the mean and the half-width of its 95% interval."""
    error = _deviation(values) / math.sqrt(len(values))
    return _mean(values), _t_factor(len(values) - 1) * error


def _difference(estimate: float, error: float, degrees: float) -> Difference:
    """Complete a difference whose standard error is known; without any error nothing is left to chance."""
    wide, narrow = (_t_factor(degrees, level) * error for level in (_CONFIDENCE, _CONFIDENCE_OF_EQUALITY))
    return Difference(
        estimate=estimate,
        low=estimate - wide,
        high=estimate + wide,
        low90=estimate - narrow,
        high90=estimate + narrow,
        p=two_sided_p(estimate, error, degrees),
    )


@lru_cache(maxsize=1024)
def _t_factor(degrees: float, confidence: float = _CONFIDENCE) -> float:
    if confidence == _CONFIDENCE and degrees in T_FACTORS:
        return T_FACTORS[degrees]
    from scipy.special import stdtrit  # here, because it costs 0.2 s

    return float(stdtrit(degrees, (1 + confidence) / 2))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    """Give the sample standard deviation of at least two values."""
    centre = _mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def _medians(x_NR: FloatArray) -> FloatArray:
    ordered_NR, count = np.sort(x_NR, axis=1), x_NR.shape[1]
    medians_N: FloatArray = (ordered_NR[:, (count - 1) // 2] + ordered_NR[:, count // 2]) / 2
    return medians_N


def _means(x_NR: FloatArray) -> FloatArray:
    """Add column by column, an order that is the same on every machine."""
    means_N: FloatArray = sum(x_NR.T, np.zeros(len(x_NR))) / x_NR.shape[1]
    return means_N


def _deviations(x_NR: FloatArray) -> FloatArray:
    """Give the sample standard deviations of at least two values each."""
    squares_NR = (x_NR - _means(x_NR)[:, np.newaxis]) ** 2
    deviations_N: FloatArray = np.sqrt(_means(squares_NR) * (x_NR.shape[1] / (x_NR.shape[1] - 1)))
    return deviations_N


def _each(function: Callable[[float], float], x: FloatArray) -> FloatArray:
    """Apply Python's own logarithm or exponential: numpy's differ in the last digit from one CPU to another."""
    return np.fromiter(map(function, x.ravel().tolist()), dtype=np.float64, count=x.size).reshape(x.shape)


def _quantile(ordered_NC: FloatArray, share: float) -> FloatArray:
    place = share * (ordered_NC.shape[1] - 1)
    below = int(place)
    low_N: FloatArray = ordered_NC[:, below]
    if place == below:
        return low_N
    high_N: FloatArray = ordered_NC[:, below + 1]
    between_N: FloatArray = low_N + (high_N - low_N) * (place - below)
    return between_N
