"""Figures between and beyond measured lengths, from planted powers."""

import pytest
from msgspec.structs import replace

from attnbench.answers.recommend.interpolation import FARTHEST, estimate_at
from unit.analysis.courses_planted import sweep


def course(cost, **more):
    return {row.case.shape.seq_q: row for row in sweep({"a": cost}, **more)}


def test_a_measured_length_gives_its_own_figure_and_interval():
    rows = course(lambda n: 1e-9 * n * n, noise=0.02)
    found = estimate_at(rows, 1024, extrapolate=True)
    assert (found.how, found.value, found.low, found.high) == ("measured", *figures(rows[1024]))


def figures(row):
    return row.value, row.low, row.high


def test_between_lengths_a_power_is_interpolated_exactly_and_a_polynomial_within_the_interval():
    power = estimate_at(course(lambda n: 3e-9 * n**1.7), 1500, extrapolate=False)
    assert (power.how, power.lengths) == ("between", (1024, 2048))
    assert power.value == pytest.approx(3e-9 * 1500**1.7)
    bent = estimate_at(course(lambda n: 1e-4 + 1e-7 * n + 1e-10 * n * n), 1500, extrapolate=False)
    assert bent.low <= 1e-4 + 1e-7 * 1500 + 1e-10 * 1500**2 <= bent.high < 1.2 * bent.low


def test_between_only_two_lengths_the_curvature_is_unknown_and_there_is_no_interval():
    found = estimate_at(course(float, lengths=(512, 1024)), 700, extrapolate=True)
    assert (found.value, found.low, found.high) == (pytest.approx(700), None, None)


def test_a_power_is_extrapolated_from_at_least_three_lengths_and_no_farther_than_the_bound():
    rows = course(lambda n: 1e-9 * n * n, noise=0.01)
    found = estimate_at(rows, 8192, extrapolate=True)
    assert (found.how, found.exponent) == ("beyond", pytest.approx(2, abs=0.05))
    assert found.low <= 1e-9 * 8192**2 <= found.high
    assert estimate_at(rows, round(4096 * FARTHEST) + 1, extrapolate=True) is None
    assert estimate_at(rows, 8192, extrapolate=False) is None
    assert estimate_at({n: rows[n] for n in (2048, 4096)}, 8192, extrapolate=True) is None
    assert estimate_at(rows, 256, extrapolate=True).value == pytest.approx(1e-9 * 256**2, rel=0.1)


def test_an_extrapolated_curve_that_is_no_power_has_a_wider_interval_than_a_power():
    straight, bent = (
        estimate_at(course(cost), 8192, extrapolate=True) for cost in (lambda n: n, lambda n: 1e6 + n * n)
    )
    assert bent.high / bent.low > 1.5 > straight.high / straight.low
    assert bent.low <= 1e6 + 8192**2 <= bent.high


def test_a_figure_counted_once_is_certain_and_one_of_too_few_rounds_has_no_interval():
    memory = course(lambda n: 64 * n, metric="memory", rounds=1)
    assert estimate_at(memory, 512, extrapolate=True).has_interval
    assert not estimate_at(course(float, rounds=2), 512, extrapolate=True).has_interval


FAILURES = {
    "oom_host": "it needed 9 GiB more than was free",
    "invalid_output": "NaN",
    "error": "RuntimeError",
    "unsupported": "no",
    "ok": "3 of 20 values not finite",
}


@pytest.mark.parametrize("status", FAILURES)
def test_a_measured_failure_outranks_what_its_neighbours_suggest_at_its_length_and_beyond_it(status):
    rows = course(lambda n: n * n)
    rows[2048] = replace(rows[2048], value=None, low=None, high=None, status=status, detail=FAILURES[status])
    for length in (1500, 2048, 3000, 8192):
        assert estimate_at(rows, length, extrapolate=True) is None
    assert estimate_at(rows, 700, extrapolate=True).lengths == (512, 1024)
    assert estimate_at(rows, 4096, extrapolate=True).how == "measured"


@pytest.mark.parametrize(("status", "detail"), [("skipped", "the budget"), ("interrupted", "Ctrl-C")])
def test_a_length_that_was_not_tried_is_estimated_from_its_neighbours(status, detail):
    rows = course(lambda n: n * n)
    rows[2048] = replace(rows[2048], value=None, low=None, high=None, status=status, detail=detail)
    assert estimate_at(rows, 2048, extrapolate=True).lengths == (1024, 4096)
