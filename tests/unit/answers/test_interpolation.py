"""Figures between and beyond measured lengths, from planted powers."""

import pytest
from msgspec.structs import replace

from attnbench.answers.recommend.interpolation import FARTHEST, figure_at
from unit.analysis.courses_planted import sweep


def course(cost, **more):
    return {row.case.shape.seq_q: row for row in sweep({"a": cost}, **more)}


def test_a_measured_length_gives_its_own_figure_and_interval():
    rows = course(lambda n: 1e-9 * n * n, noise=0.02)
    found = figure_at(rows, 1024, carry=True)
    assert (found.how, found.value, found.low, found.high) == ("measured", *figures(rows[1024]))


def figures(row):
    return row.value, row.low, row.high


def test_between_lengths_a_power_is_interpolated_exactly_and_a_polynomial_within_the_interval():
    power = figure_at(course(lambda n: 3e-9 * n**1.7), 1500, carry=False)
    assert (power.how, power.lengths) == ("between", (1024, 2048))
    assert power.value == pytest.approx(3e-9 * 1500**1.7)
    bent = figure_at(course(lambda n: 1e-4 + 1e-7 * n + 1e-10 * n * n), 1500, carry=False)
    assert bent.low <= 1e-4 + 1e-7 * 1500 + 1e-10 * 1500**2 <= bent.high < 1.2 * bent.low


def test_between_only_two_lengths_the_curvature_is_unknown_and_there_is_no_interval():
    found = figure_at(course(float, lengths=(512, 1024)), 700, carry=True)
    assert (found.value, found.low, found.high) == (pytest.approx(700), None, None)


def test_a_power_is_extrapolated_from_at_least_three_lengths_and_no_farther_than_the_bound():
    rows = course(lambda n: 1e-9 * n * n, noise=0.01)
    found = figure_at(rows, 8192, carry=True)
    assert (found.how, found.exponent) == ("beyond", pytest.approx(2, abs=0.05))
    assert found.low <= 1e-9 * 8192**2 <= found.high
    assert figure_at(rows, round(4096 * FARTHEST) + 1, carry=True) is None
    assert figure_at(rows, 8192, carry=False) is None
    assert figure_at({n: rows[n] for n in (2048, 4096)}, 8192, carry=True) is None
    assert figure_at(rows, 256, carry=True).value == pytest.approx(1e-9 * 256**2, rel=0.1)


def test_an_extrapolated_curve_that_is_no_power_has_a_wider_interval_than_a_power():
    straight, bent = (figure_at(course(cost), 8192, carry=True) for cost in (lambda n: n, lambda n: 1e6 + n * n))
    assert bent.high / bent.low > 1.5 > straight.high / straight.low
    assert bent.low <= 1e6 + 8192**2 <= bent.high


def test_a_figure_counted_once_is_certain_and_one_of_too_few_rounds_has_no_interval():
    memory = course(lambda n: 64 * n, metric="memory", rounds=1)
    assert figure_at(memory, 512, carry=True).known
    assert not figure_at(course(float, rounds=2), 512, carry=True).known


def test_a_failed_length_is_left_out_and_does_not_affect_the_others():
    rows = course(lambda n: n * n)
    rows[2048] = replace(rows[2048], value=None, low=None, high=None, status="oom_host")
    assert figure_at(rows, 2048, carry=True).lengths == (1024, 4096)
