"""Whether verdicts can be trusted: sweeps of 36 cells on a simulated machine, judged by the real comparison.

The machine has 1% noise from process to process, drifts by 2% over the run and wanders by 1% (AR(1), 0.8 from one job
to the next).
"""

import numpy as np
import pytest

from attnbench.analysis.compare import Comparisons, compare
from attnbench.contracts.specs import Spec
from helpers.simulated import Machine, measured, plan

CELLS = 36
SLOWED = 17
WITHIN = (Spec(name="old"), Spec(name="new"))


def within_a_run(rounds, slowdown, rng):
    """Compare two variants of one run, one cell of the second slowed."""
    rows = plan(["old", "new"], CELLS)
    true = np.ones(len(rows))
    true[CELLS + SLOWED] *= 1 + slowdown
    run = measured(rows, true, rounds, machine=Machine(), rng=rng)
    return compare(run, run, variants=WITHIN)


def across_runs(rounds, slowdown, rng, **disturbed):
    """Compare two runs of a variant, one cell of the second slowed (its second measurement, too)."""
    base, new = plan(["old"], CELLS), plan(["old"], CELLS, run="new")
    true = np.ones(len(base))
    slowed = true.copy()
    slowed[[SLOWED, CELLS + SLOWED]] *= 1 + slowdown
    machine = Machine(**disturbed)
    return compare(
        measured(base, true, rounds, machine=machine, rng=rng), measured(new, slowed, rounds, machine=machine, rng=rng)
    )


def verdicts(found: Comparisons):
    assert len(found.pairs) == CELLS
    return [pair.verdict for pair in found.pairs]


def share(outcomes):
    return float(np.mean(list(outcomes)))


@pytest.mark.parametrize(("sweep", "sweeps"), [(within_a_run, 500), (across_runs, 300)])
@pytest.mark.parametrize("rounds", [5, 10])
def test_at_most_5_percent_of_sweeps_without_a_difference_hold_any_false_verdict(sweep, sweeps, rounds):
    rng = np.random.default_rng(rounds)
    alarms = ({"faster", "slower"} & set(verdicts(sweep(rounds, 0, rng))) for _ in range(sweeps))
    assert share(map(bool, alarms)) <= 0.05


@pytest.mark.parametrize("sweep", [within_a_run, across_runs])
@pytest.mark.parametrize(("rounds", "slowdown"), [(10, 0.05), (5, 0.25)])
def test_one_cell_slowed_by_5_percent_is_found_in_10_rounds_and_by_25_percent_in_5(sweep, rounds, slowdown):
    rng = np.random.default_rng(rounds)
    found = (verdicts(sweep(rounds, slowdown, rng))[SLOWED] == "slower" for _ in range(200))
    assert share(found) >= 0.95


def test_the_interval_of_a_sweeps_mean_holds_the_truth_although_cells_share_their_rounds():
    rng = np.random.default_rng(3)
    means = [within_a_run(5, 0, rng).mean for _ in range(300)]
    assert 0.93 <= share(mean.low <= 1 <= mean.high for mean in means) <= 0.97


def test_sessions_whose_level_differs_by_2_percent_raise_false_alarms_and_a_single_run_does_not():
    rng = np.random.default_rng(4)
    alarms = ({"faster", "slower"} & set(verdicts(across_runs(10, 0, rng, level=0.02))) for _ in range(100))
    assert share(map(bool, alarms)) > 0.3
