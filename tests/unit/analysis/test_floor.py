import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from attnbench.analysis.floor import aa_floor, is_harness
from attnbench.analysis.rows import rows
from helpers.simulated import Machine, blank, measured, plan, timed, twin
from unit.report.planted import OWN, job


def twice(logs, *, seq=512, run="base"):
    row = blank("vanilla", seq=seq, run=run)
    return [timed(row, [1.0] * len(logs)), timed(twin(row), [math.exp(each) for each in logs])]


def test_95_percent_of_comparisons_of_the_same_thing_stay_below_the_floor():
    rng = np.random.default_rng(0)
    quiet = Machine(wander=0, drift=0)
    floors, means = [], []
    for _ in range(60):
        run = measured(plan(["vanilla"], 36), np.ones(72), 10, machine=quiet, rng=rng)
        floors.append(aa_floor(run).share)
        means += [
            np.mean([math.log(second.medians[number] / one.medians[number]) for number in one.medians])
            for one, second in zip(run[:36], run[36:], strict=True)
        ]
    assert np.mean(floors) == pytest.approx(math.expm1(1.96 * 0.01 * math.sqrt(2 / 10)), rel=0.03)
    assert np.mean(np.abs(means) > np.log1p(np.mean(floors))) == pytest.approx(0.05, abs=0.015)


NORMAL = 0.6744897501960817  # the median of a standard normal distribution's absolute values


def test_more_rounds_lower_the_floor():
    for rounds in (4, 16):
        floor = aa_floor(twice([0.01, -0.01] * (rounds // 2)))
        assert floor.share == pytest.approx(math.expm1(1.96 * 0.01 / NORMAL / math.sqrt(rounds)))


def test_one_wild_case_or_round_does_not_move_the_floor():
    calm = [*twice([0.01, -0.01, 0.01, -0.01]), *twice([0.01, -0.01, 0.01, 0.9], seq=256)]
    wild = twice([0.4, -0.2, 0.9, -0.4], seq=1024)
    assert aa_floor([*calm, *wild]).share == pytest.approx(aa_floor(calm).share)


@pytest.mark.parametrize(
    "run", [[], twice([0.01, 0.02]), [timed(blank("vanilla"), [1.0] * 5)]], ids=["nothing", "2 rounds", "no twin"]
)
def test_a_run_without_three_rounds_of_a_case_timed_twice_has_no_floor(run):
    assert aa_floor(run) is None


def test_a_difference_is_judged_by_how_much_identical_measurements_differ():
    floor = aa_floor(twice([0.01, -0.01] * 4))
    expected = 2 * scipy_stats.t.sf(0.02 / (0.01 / NORMAL / math.sqrt(4)), 0.37 * 8)
    assert floor.p(-0.02, (4, 4)) == floor.p(0.02, (4, 4)) == pytest.approx(expected)
    assert floor.p(0.02, (4, 2)) > floor.p(0.02, (4, 4)) > floor.p(0.02, (5, 5))


def test_only_rounds_with_both_measurements_count():
    first, second = twice([0.01, -0.01, 0.01, 0.5])
    assert aa_floor([timed(first, [1.0] * 3), second]).share == pytest.approx(
        math.expm1(1.96 * 0.01 / NORMAL / math.sqrt(3))
    )


def test_measurements_of_different_runs_are_not_treated_as_one_case_timed_twice():
    one, _ = twice([0.0] * 3)
    _, other = twice([1.0] * 3, run="new")
    assert aa_floor([one, other]) is None


def test_the_harness_is_known_by_its_origin_and_not_by_its_name_alone():
    (own,), (users,) = (rows([], [planned]) for planned in (job("empty"), job("empty", origin=OWN.__class__(path="x"))))
    assert (is_harness(own), is_harness(users)) == (True, False)
