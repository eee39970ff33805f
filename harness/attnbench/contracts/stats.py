"""Statistics of replicated measurements: pure functions from raw values to an estimate and its uncertainty.

The replicate is the process: a round runs every case once, each in a process of its own. Samples of one process share
its memory layout and its moment, so their number says nothing about the next process.

scipy is imported inside functions: scipy.special takes 0.1 s, and scipy.stats, whose tests check these, 0.9 s.
"""

# N rows (or processes), R replicates of a row, C samples of a process, 2 interval ends
import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Noise = Literal["", "clean", "noisy", "very noisy"]
FloatArray = NDArray[np.float64]

CLEAN = 0.02
NOISY = 0.10
FEWEST_REPLICATES = 3
_CONFIDENCE = 0.95
_CONFIDENCE_OF_EQUALITY = 0.90  # both of two one-sided tests at 5%
_MILD, _SEVERE = 1.5, 3.0  # interquartile ranges outside the quartiles
_SHARES = (0, 0.05, 0.25, 0.5, 0.75, 0.95)  # of the fields of Quantiles after `count`
_IQR_OF_NORMAL = 1.3489795003921634  # interquartile range of a normal distribution in standard deviations
_LARGEST_LOG = math.log(np.finfo(np.float64).max)


class Estimate(Struct, frozen=True):
    """A value with its 95% interval; the interval is null where there are too few replicates for one."""

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
    """Quantiles of the samples of a process, interpolated linearly between neighbours as numpy.quantile does."""

    count: int
    min: float
    p05: float
    p25: float
    median: float
    p75: float
    p95: float

    @property
    def iqr(self) -> float:
        """The interquartile range."""
        return self.p75 - self.p25


def quantiles(samples: FloatArray) -> Quantiles:
    """Return the quantiles of at least one sample."""
    (row,) = quantiles_of_each(samples[np.newaxis]).tolist()
    return Quantiles(samples.size, *row)


def quantiles_of_each(samples_NC: FloatArray) -> FloatArray:
    """Return the fields of Quantiles after `count`, [N, 6], of N processes with C samples each."""
    return np.quantile(samples_NC, _SHARES, axis=1).T


def median_of_processes(medians: Sequence[float]) -> Estimate:
    """Return the median of the process medians, with a 95% interval by Student's t on their logarithms.

    The interval is null below 3 processes (a bootstrap of 3 covers 76%, not 95), and where a value is not positive and
    so has no logarithm. Identical values have an interval of zero width. The interval is centred on the geometric mean;
    where the medians form two clusters it is widened to contain the median.
    """
    value, low, high = medians_of_processes(np.array([medians], dtype=np.float64))[0].tolist()
    return Estimate(value) if math.isnan(low) else Estimate(value, low, high)


def medians_of_processes(medians_NR: FloatArray) -> FloatArray:
    """Return `median_of_processes` of N rows with R processes each: value, low and high, [N, 3]; NaN for null."""
    count = medians_NR.shape[1]
    value_N = np.median(medians_NR, axis=1)
    if count < FEWEST_REPLICATES:
        return np.column_stack([value_N, np.full((len(value_N), 2), np.nan)])
    has_interval_N = medians_NR.min(axis=1) > 0
    logs_NR = _mapped(math.log, np.where(has_interval_N[:, np.newaxis], medians_NR, 1.0))
    centre_N = logs_NR.mean(axis=1)
    half_N = _t_factor(count - 1) * _deviations(logs_NR) / math.sqrt(count)
    has_interval_N &= centre_N + half_N <= _LARGEST_LOG
    low_N, high_N = _mapped(math.exp, np.where(has_interval_N, [centre_N - half_N, centre_N + half_N], 0.0))
    ends_N2 = np.column_stack([np.minimum(value_N, low_N), np.maximum(value_N, high_N)])
    ends_N2[~has_interval_N] = np.nan
    same_N = np.ptp(medians_NR, axis=1) == 0
    ends_N2[same_N] = value_N[same_N, np.newaxis]
    return np.column_stack([value_N, ends_N2])


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean with a 95% interval by Student's t; the interval is null below 3 seeds.

    The interval of a bounded score may exceed its bound.
    """
    if len(values) < FEWEST_REPLICATES:
        return Estimate(fmean(values))
    if min(values) == max(values):
        return Estimate(values[0], values[0], values[0])
    centre = fmean(values)
    half = _t_factor(len(values) - 1) * (_deviation(values) / math.sqrt(len(values)))
    return Estimate(centre, centre - half, centre + half)


def paired(differences: Sequence[float]) -> Difference:
    """Test by Student's t whether the mean of at least two differences is zero: one difference a round.

    What both sides of a round share, above all drift, cancels in their difference.
    """
    count = len(differences)
    return _difference(fmean(differences), _deviation(differences) / math.sqrt(count), count - 1)


def welch(base: Sequence[float], new: Sequence[float]) -> Difference:
    """Test by Welch's t whether the means of two samples of at least two values differ; the estimate is new - base."""
    squares = [_deviation(values) ** 2 / len(values) for values in (base, new)]
    parts = sum(square**2 / (len(values) - 1) for square, values in zip(squares, (base, new), strict=True))
    degrees = sum(squares) ** 2 / parts if parts else float(len(base) + len(new) - 2)
    return _difference(fmean(new) - fmean(base), math.sqrt(sum(squares)), degrees)


def two_sided_p(estimate: float, error: float, degrees: float) -> float:
    """Return the two-sided p-value of an estimate with a standard error, by Student's t; 0 or 1 without any error."""
    from scipy.special import stdtr

    return 2 * float(stdtr(degrees, -abs(estimate / error))) if error else float(estimate == 0)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of one family, in their order, adjusted for their number.

    By Benjamini and Hochberg 1995, procedure 1: calling those at or below q significant limits the expected share of
    false ones among them to q. Where no effect is real, q is the chance that any is called significant.
    """
    count, least = len(p_values), 1.0
    adjusted = [1.0] * count
    for rank, index in reversed(list(enumerate(sorted(range(count), key=p_values.__getitem__), start=1))):
        least = min(least, p_values[index] * count / rank)
        adjusted[index] = least
    return adjusted


def slope(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Return the slope of a least-squares line through points of at least two x.

    Its 95% interval is by Student's t on the residuals; null for two points, which leave none. The residuals are summed
    as they are: from a correlation close to 1, as of an exact power law, half of the digits would be lost.
    """
    centre_x, centre_y = fmean(x), fmean(y)
    squares = math.fsum((a - centre_x) ** 2 for a in x)
    value = math.fsum((a - centre_x) * (b - centre_y) for a, b in zip(x, y, strict=True)) / squares
    if len(x) < 3:
        return Estimate(value)
    residuals = (b - centre_y - value * (a - centre_x) for a, b in zip(x, y, strict=True))
    error = math.sqrt(math.fsum(residual**2 for residual in residuals) / (len(x) - 2) / squares)
    half = _t_factor(len(x) - 2) * error
    return Estimate(value, value - half, value + half)


def tukey_labels(samples: FloatArray, p25: float | FloatArray, p75: float | FloatArray) -> NDArray[np.int8]:
    """Return labels: 0 inside, 1 a mild outlier (over 1.5 IQR outside the quartiles), 2 a severe one (over 3 IQR).

    Quartiles of several processes are arrays that broadcast against their samples.
    """
    outside, iqr = np.maximum(p25 - samples, samples - p75), p75 - p25
    mild, severe = outside > _MILD * iqr, outside > _SEVERE * iqr
    return mild.astype(np.int8) + severe.astype(np.int8)


def relative_spread(medians: Sequence[float], samples: Quantiles) -> float | None:
    """Return a standard deviation over the median: how far a repetition is expected to land from the reported value.

    With two or more processes it is the sample standard deviation of their medians. With one it is that of a normal
    distribution with the samples' IQR, so that a single slow sample does not decide; it misses what differs between
    processes and is therefore too low. Null for a single sample, and where the median is zero.
    """
    iqr_N, counts_N = np.array([samples.iqr]), np.array([samples.count])
    (spread,) = relative_spreads(np.array([medians], dtype=np.float64), iqr_N, counts_N).tolist()
    return None if math.isnan(spread) else spread


def relative_spreads(medians_NR: FloatArray, iqr_N: FloatArray, counts_N: NDArray[np.int64]) -> FloatArray:
    """Return `relative_spread` of N rows with R processes each; their samples' IQR and number; NaN for null."""
    if medians_NR.shape[1] > 1:
        deviations_N = np.where(np.ptp(medians_NR, axis=1) == 0, 0.0, _deviations(medians_NR))
    else:
        deviations_N = np.where(counts_N > 1, iqr_N / _IQR_OF_NORMAL, np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        spreads_N = np.where(deviations_N == 0, 0.0, deviations_N / np.abs(np.median(medians_NR, axis=1)))
    return np.where(np.isfinite(spreads_N), spreads_N, np.nan)


def noise_verdict(spread: float | None) -> Noise:
    """Return the verdict on a relative spread: clean up to 2%, noisy up to 10%, very noisy above; '' without one."""
    if spread is None:
        return ""
    return "clean" if spread <= CLEAN else "noisy" if spread <= NOISY else "very noisy"


def _difference(estimate: float, error: float, degrees: float) -> Difference:
    wide, narrow = (_t_factor(degrees, level) * error for level in (_CONFIDENCE, _CONFIDENCE_OF_EQUALITY))
    return Difference(
        estimate=estimate,
        low=estimate - wide,
        high=estimate + wide,
        low90=estimate - narrow,
        high90=estimate + narrow,
        p=two_sided_p(estimate, error, degrees),
    )


def _t_factor(degrees: float, confidence: float = _CONFIDENCE) -> float:
    """Return half the width of an interval by Student's t, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


def _deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation of at least two values."""
    centre = fmean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def _deviations(x_NR: FloatArray) -> FloatArray:
    """Return the sample standard deviations of at least two values each, rounded as in the tables already published."""
    deviations_N: FloatArray = np.sqrt(x_NR.var(axis=1) * (x_NR.shape[1] / (x_NR.shape[1] - 1)))
    return deviations_N


def _mapped(function: Callable[[float], float], x: FloatArray) -> FloatArray:
    """Apply Python's own logarithm or exponential: numpy's differ in the last digit from one CPU to another."""
    return np.fromiter(map(function, x.ravel().tolist()), dtype=np.float64, count=x.size).reshape(x.shape)
