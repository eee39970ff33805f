import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from attnbench.contracts import stats

times = st.floats(min_value=1e-9, max_value=1e3)


@given(st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1, max_size=60))
def test_quantiles_are_those_of_numpy(values):
    found = stats.quantiles(np.array(values))
    expected = np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95])
    assert [found.min, found.p05, found.p25, found.median, found.p75, found.p95] == pytest.approx(expected, abs=1e-6)
    assert found.count == len(values)


@pytest.mark.parametrize("medians", [[1.0], [1.0, 2.0]])
def test_fewer_than_three_processes_have_no_interval(medians):
    estimate = stats.median_of_processes(medians)
    assert estimate.value == np.median(medians)
    assert (estimate.low, estimate.high) == (None, None)


def test_the_interval_of_a_median_is_students_t_on_the_logarithms():
    medians = [1.0, 1.1, 0.95, 1.3, 1.02]
    low, high = scipy_stats.t.interval(0.95, 4, np.mean(np.log(medians)), scipy_stats.sem(np.log(medians)))
    estimate = stats.median_of_processes(medians)
    assert estimate.value == 1.02
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(low), math.exp(high)))


@given(st.lists(times, min_size=3, max_size=12), st.floats(min_value=1e-3, max_value=1e3))
def test_a_change_of_unit_changes_nothing_but_the_unit(medians, size):
    one, other = (stats.median_of_processes([unit * each for each in medians]) for unit in (1, size))
    assert other.value == pytest.approx(size * one.value)
    if one.low is not None and other.low is not None:
        assert (other.low, other.high) == pytest.approx((size * one.low, size * one.high))


@given(st.lists(times, min_size=3, max_size=12))
def test_an_interval_holds_its_figure(medians):
    estimate = stats.median_of_processes(medians)
    if estimate.low is not None:
        assert estimate.low <= estimate.value <= estimate.high


def test_an_interval_is_widened_to_hold_a_median_in_the_larger_of_two_camps():
    estimate = stats.median_of_processes([1.0] * 6 + [2.0] * 4)
    assert estimate.low == estimate.value == 1.0
    assert estimate.high > 1.3


def test_identical_processes_have_an_interval_of_no_width():
    assert stats.median_of_processes([7.0] * 3) == stats.Estimate(7.0, 7.0, 7.0)
    assert stats.median_of_processes([0.0] * 3) == stats.Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize("odd", [0.0, -1.0])
def test_a_value_without_a_logarithm_leaves_the_figure_and_takes_the_interval(odd):
    assert stats.median_of_processes([odd, 1.0, 2.0]) == stats.Estimate(1.0)


def test_an_interval_too_wide_for_a_number_is_null():
    assert stats.median_of_processes([1e-300, 1.0, 1e300]) == stats.Estimate(1.0)


@pytest.mark.parametrize("rounds", [3, 5, 10])
def test_the_interval_covers_the_truth_in_95_of_100_runs(rounds):
    logs = np.random.default_rng(rounds).normal(0, 0.01, (3000, rounds))
    estimates = [stats.median_of_processes(row.tolist()) for row in np.exp(logs)]
    covered = np.mean([estimate.low <= 1 <= estimate.high for estimate in estimates])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_the_mean_over_seeds_has_students_interval():
    seeds = [0.91, 0.93, 0.9, 0.95, 0.92]
    low, high = scipy_stats.t.interval(0.95, 4, np.mean(seeds), scipy_stats.sem(seeds))
    estimate = stats.mean_over_seeds(seeds)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((np.mean(seeds), low, high))


@pytest.mark.parametrize("seeds", [[0.9], [0.9, 0.8]])
def test_fewer_than_three_seeds_have_no_interval(seeds):
    assert stats.mean_over_seeds(seeds) == stats.Estimate(pytest.approx(np.mean(seeds)))


def test_a_score_that_all_seeds_reach_is_given_exactly():
    assert stats.mean_over_seeds([0.1, 0.1, 0.1]) == stats.Estimate(0.1, 0.1, 0.1)


def test_outliers_are_labelled_by_how_far_they_lie_outside_the_quartiles():
    samples = np.array([12.0, 4.0, 20.0, 3.9, 20.1, -2.0, 26.0, -2.1, 26.1])  # fences 4, 20 and -2, 26
    assert stats.tukey_labels(samples, 10.0, 14.0).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_labelling_keeps_every_sample():
    samples = np.array([1.0] * 20 + [50.0])
    middle = stats.quantiles(samples)
    assert len(stats.tukey_labels(samples, middle.p25, middle.p75)) == 21


def test_many_processes_described_at_once_are_described_as_each_alone():
    samples = np.random.default_rng(0).normal(size=(3, 26))
    alone = [stats.quantiles(one) for one in samples]
    assert stats.quantiles_of_each(samples).tolist() == [
        [one.min, one.p05, one.p25, one.median, one.p75, one.p95] for one in alone
    ]
    lower, upper = (np.array([[getattr(one, name)] for one in alone]) for name in ("p25", "p75"))
    labels = [stats.tukey_labels(one, middle.p25, middle.p75) for one, middle in zip(samples, alone, strict=True)]
    assert stats.tukey_labels(samples, lower, upper).tolist() == np.stack(labels).tolist()


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5, 10])
def test_many_figures_estimated_at_once_are_estimated_as_each_alone(processes):
    medians = np.random.default_rng(processes).lognormal(size=(50, processes))
    medians[:4] = [[0.0] * processes, [7.0] * processes, [-1.0, *medians[0, 1:]], [0.1] * processes]
    pooled = [stats.quantiles(np.repeat(each, 3)) for each in medians]
    iqr, counts = np.array([each.iqr for each in pooled]), np.array([each.count for each in pooled])
    assert nulls(stats.medians_of_processes(medians)) == [
        [each.value, each.low, each.high] for each in map(stats.median_of_processes, medians.tolist())
    ]
    assert nulls(stats.relative_spreads(medians, iqr, counts)) == [
        stats.relative_spread(each, quantiles) for each, quantiles in zip(medians.tolist(), pooled, strict=True)
    ]


def nulls(figures):
    return np.where(np.isnan(figures), None, figures).tolist()


def spread(*processes):
    medians = [stats.quantiles(np.array(process, dtype=float)).median for process in processes]
    return stats.relative_spread(medians, stats.quantiles(np.concatenate(processes).astype(float)))


def test_the_spread_of_several_processes_is_that_of_their_medians_whatever_happens_within():
    assert spread([90, 100, 110], [50, 102, 400]) == pytest.approx(np.std([100, 102], ddof=1) / 101)


def test_the_spread_of_one_process_is_that_of_a_normal_distribution_with_its_middle_half():
    samples = np.random.default_rng(0).normal(100, 3, 100_000)
    assert spread(samples) == pytest.approx(0.03, rel=0.02)


def test_one_slow_sample_does_not_make_a_process_noisy():
    calm = [100.0, 100.1, 100.2] * 20
    assert spread([*calm, 10_000.0]) == pytest.approx(spread(calm), rel=0.05)


def test_a_single_sample_and_a_spread_around_zero_have_no_verdict():
    assert spread([5.0]) is None
    assert spread([-1.0, 0.0, 1.0]) is None
    assert stats.noise_verdict(None) == ""


def test_what_repeats_to_the_byte_is_clean_even_at_zero():
    assert spread([0.0], [0.0]) == 0


@pytest.mark.parametrize(
    ("relative", "verdict"),
    [(0, "clean"), (0.02, "clean"), (0.0201, "noisy"), (0.1, "noisy"), (0.1001, "very noisy"), (3.0, "very noisy")],
)
def test_noise_is_clean_to_two_percent_and_very_noisy_above_ten(relative, verdict):
    assert stats.noise_verdict(relative) == verdict


def test_statistics_import_no_scipy_pandas_or_torch():
    program = "import sys; from attnbench.contracts import stats; print(*{'scipy', 'pandas', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


differences = st.lists(st.floats(min_value=-3, max_value=3), min_size=2, max_size=12).filter(
    lambda values: np.std(values) > 1e-6
)


@given(differences)
def test_a_paired_difference_is_that_of_scipy(values):
    found, expected = stats.paired(values), scipy_stats.ttest_1samp(values, 0)
    wide, narrow = (expected.confidence_interval(level) for level in (0.95, 0.90))
    assert (found.estimate, found.p) == pytest.approx((np.mean(values), expected.pvalue), abs=1e-9)
    assert (found.low, found.high, found.low90, found.high90) == pytest.approx((*wide, *narrow), abs=1e-7)


@given(differences, differences)
def test_a_difference_of_two_samples_is_welchs_by_scipy(base, new):
    found, expected = stats.welch(base, new), scipy_stats.ttest_ind(new, base, equal_var=False)
    wide, narrow = (expected.confidence_interval(level) for level in (0.95, 0.90))
    assert (found.estimate, found.p) == pytest.approx((np.mean(new) - np.mean(base), expected.pvalue), abs=1e-9)
    assert (found.low, found.high, found.low90, found.high90) == pytest.approx((*wide, *narrow), abs=1e-7)


def test_without_any_noise_a_difference_is_certain_and_so_is_none():
    assert (stats.paired([0.5, 0.5]).p, stats.paired([0.0, 0.0]).p) == (0, 1)
    assert (stats.welch([1.0, 1.0], [2.0, 2.0]).p, stats.welch([1.0, 1.0], [1.0, 1.0]).p) == (0, 1)


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=40))
def test_adjusted_p_values_are_those_of_scipy_in_the_same_order(p_values):
    expected = scipy_stats.false_discovery_control(p_values) if p_values else []
    assert stats.benjamini_hochberg(p_values) == pytest.approx(list(expected))
