import pytest
from msgspec.structs import replace

from attnbench.analysis.scaling import growths
from helpers.planted import with_axes
from unit.analysis.courses_planted import LENGTHS, sweep

TRIALS = 300


def test_planted_exponents_are_recovered_exactly_where_there_is_no_noise():
    powers = {"constant": 0, "linear": 1, "square": 2, "strided": 1.5}
    found = growths(sweep({name: lambda n, p=power: 1e-9 * n**p for name, power in powers.items()}))
    assert {each.variant: (round(each.exponent, 9), round(each.local, 9)) for each in found} == {
        name: (power, power) for name, power in powers.items()
    }
    assert all(each.low == pytest.approx(each.exponent) == each.high for each in found)


def test_intervals_hold_the_planted_exponent_in_at_least_95_of_100_trials():
    held = 0
    for trial in range(TRIALS):
        (found,) = growths(sweep({"square": lambda n: 1e-9 * n**2}, noise=0.02, seed=trial))
        held += found.low <= 2 <= found.high
    assert held >= 0.95 * TRIALS - 5


def test_a_curve_that_is_no_power_has_a_wide_interval_and_another_exponent_at_the_end():
    (found,) = growths(sweep({"late": lambda n: 1e-3 + 1e-9 * n**2}, noise=0.001))
    assert found.exponent < found.local
    assert found.high - found.low > 1


def test_the_local_exponent_is_that_of_the_last_doubling_even_with_refined_lengths_in_between():
    cost = {"bent": lambda n: float(n) if n <= 2048 else n**2 / 2048}
    (found,) = growths(sweep(cost, lengths=(512, 1024, 2048, 2880, 3456, 4096)))
    assert found.local == pytest.approx(2)


def test_two_lengths_have_an_exponent_and_an_interval_only_from_three_rounds_on():
    rows = sweep({"square": lambda n: 1e-9 * n**2}, lengths=(512, 1024), noise=0.01)
    (found,) = growths(rows)
    assert found.low < 2 < found.high
    (twice,) = growths(sweep({"square": lambda n: 1e-9 * n**2}, lengths=(512, 1024), rounds=2))
    assert (twice.low, twice.high) == (None, None)


def test_one_round_of_a_time_shows_no_exponent_and_a_count_needs_no_rounds():
    once = sweep({"square": lambda n: 1e-9 * n**2}, rounds=1)
    assert growths(once) == []
    assert [round(found.exponent, 9) for found in growths(once, once=True)] == [2]
    assert len(growths(sweep({"square": lambda n: 1e-9 * n**2}, rounds=1, metric="memory"))) == 1


def test_one_length_has_no_exponent():
    assert growths(sweep({"square": float}, lengths=(512,))) == []


def test_latency_and_memory_are_fitted_separately_and_other_metrics_not_at_all():
    rows = [
        *sweep({"a": float}),
        *sweep({"a": lambda n: n * n}, metric="memory"),
        *sweep({"a": float}, metric="first_call"),
    ]
    assert [(each.metric, round(each.exponent)) for each in growths(rows)] == [("latency", 1), ("memory", 2)]


def test_each_setting_of_the_other_axes_has_a_fit_of_its_own():
    rows = [*sweep({"a": float}, heads=4), *sweep({"a": lambda n: n * n}, heads=8)]
    assert [(each.axes["heads"], round(each.exponent)) for each in growths(rows)] == [(4, 1), (8, 2)]


def test_with_constant_tokens_the_cost_of_one_sequence_is_fitted():
    rows = [with_axes(each, batch=16384 // each.case.length) for each in sweep({"square": lambda n: 1e-9 * n * 16384})]
    (found,) = growths(rows)
    assert (round(found.exponent, 9), found.per_sequence, "batch" in found.axes) == (2, True, False)


def test_decoding_grows_with_the_keys():
    rows = [with_axes(each, seq_q=1, passes="decode") for each in sweep({"cache": float})]
    (found,) = growths(rows)
    assert (found.lengths, round(found.exponent, 9)) == (LENGTHS, 1)


def test_a_length_that_failed_is_left_out():
    rows = [replace(each, value=None, medians={}) if each.case.length == 4096 else each for each in sweep({"a": float})]
    (found,) = growths(rows)
    assert (found.lengths, round(found.exponent, 9)) == (LENGTHS[:3], 1)


def test_no_exponent_is_fitted_across_a_length_that_failed():
    lengths = (256, 512, 1024, 2048, 4096)
    rows = [
        replace(each, value=None, medians={}, detail="NaN") if each.case.length == 512 else each
        for each in sweep({"a": lambda n: n if n > 512 else 1e9}, lengths=lengths)
    ]
    (found,) = growths(rows)
    assert (found.lengths, round(found.exponent, 9), found.left_out) == ((1024, 2048, 4096), 1, (256,))
    assert growths([each for each in rows if each.case.length <= 1024]) == []
