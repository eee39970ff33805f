import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from attnbench.analysis.crossover import crossovers, middle, refinements
from attnbench.analysis.rows import TWIN
from helpers.planted import with_axes
from unit.analysis.courses_planted import LENGTHS, sweep
from unit.report.planted import OWN

TRIALS = 200


def costs(crossing: float):
    return {"square": lambda n: 1e-9 * n * n, "straight": lambda n: 1e-9 * n * crossing}


def test_a_planted_crossing_is_recovered():
    (found,) = crossovers(sweep(costs(2300), noise=1e-6))
    assert (found.winner.case.variant, found.loser.case.variant, found.sure) == ("straight", "square", True)
    assert found.length == pytest.approx(2300, rel=1e-3)
    assert found.between == (2048, 4096)


def test_intervals_hold_the_planted_crossing_in_at_least_95_of_100_trials():
    held = 0
    for trial in range(TRIALS):
        (found,) = crossovers(sweep(costs(1500), noise=0.03, seed=trial))
        held += found.sure and found.low <= 1500 <= found.high
    assert held >= 0.95 * TRIALS


def test_intervals_hold_the_crossing_of_curves_that_are_not_straight_lines():
    curved = {"square": lambda n: 4e-5 + 1.6e-10 * n * n, "straight": lambda n: 9e-5 + 8.8e-8 * n}
    (found,) = crossovers(sweep(curved, noise=0.001))
    assert found.low <= 898 <= found.high
    assert not 898 * 0.99 <= found.length <= 898 * 1.01  # a line alone misses it


def test_a_crossing_made_by_noise_alone_is_not_sure():
    same = {"one": float, "other": float}
    sure = sum(found.sure for trial in range(TRIALS) for found in crossovers(sweep(same, noise=0.05, seed=trial)))
    assert sure <= 0.05 * TRIALS


def test_a_crossing_that_one_end_does_not_confirm_is_not_sure_and_its_interval_ends_with_the_sweep():
    (found,) = crossovers(sweep(costs(4000), noise=0.05, seed=0))
    assert not found.sure
    assert found.high == 4096
    assert found.low < 4000


def test_too_few_rounds_give_a_length_without_an_interval():
    (found,) = crossovers(sweep(costs(2300), rounds=2))
    assert (found.sure, found.low, found.high) == (False, None, None)
    assert found.length == pytest.approx(2300, rel=1e-6)


def test_variants_that_keep_their_order_do_not_cross():
    assert crossovers(sweep({"fast": float, "slow": lambda n: 2.0 * n}, noise=0.01)) == []


def test_two_crossings_of_one_pair_are_both_found():
    dented = {"level": lambda n: 1.0, "dented": lambda n: 0.5 if n in (1024, 2048) else 2.0}
    found = crossovers(sweep(dented, noise=1e-4))
    assert [(each.winner.case.variant, each.between) for each in found] == [
        ("dented", (512, 1024)),
        ("level", (2048, 4096)),
    ]


def test_crossings_that_change_the_best_variant_come_first():
    three = {"best": lambda n: 1.0, "a": lambda n: 4000.0 / n, "b": lambda n: 5.0, "c": lambda n: n / 150}
    found = crossovers(sweep(three, noise=1e-4))
    assert [(each.winner.case.variant, each.loser.case.variant) for each in found if each.rank == 0] == [("a", "best")]
    assert (found[0].winner.case.variant, found[0].loser.case.variant) == ("a", "best")


def test_the_harness_and_the_repeated_baseline_take_no_part_in_crossings():
    rows = sweep(costs(2300))
    harness = [
        replace(with_axes(each, variant="empty"), origin=OWN) for each in rows if each.case.variant == "straight"
    ]
    twins = [replace(each, metric="latency" + TWIN) for each in rows if each.case.variant == "straight"]
    square = [each for each in rows if each.case.variant == "square"]
    assert crossovers([*square, *harness, *twins]) == []


def test_variants_under_other_axes_are_not_compared():
    square, straight = ([each for each in sweep(costs(2300)) if each.case.variant == name] for name in costs(1))
    assert crossovers([*square, *(with_axes(each, causal=True) for each in straight)]) == []


def test_the_middle_around_a_crossing_is_measured_for_both_variants():
    wanted = refinements(crossovers(sweep(costs(2300), noise=0.05)))
    assert {(each.measured.variant, each.measured.shape.seq_q) for each in wanted} == {
        ("square", 2048),
        ("straight", 2048),
    }
    assert {(each.wanted.shape.seq_q, each.wanted.shape.seq_k) for each in wanted} == {(2880, 2880)}
    assert all(replace(each.wanted, shape=each.measured.shape) == each.measured for each in wanted)


def test_refining_keeps_constant_tokens_the_single_query_of_decoding_and_a_fixed_number_of_keys():
    rows = sweep(costs(2300), rounds=1)
    tokens = refinements(crossovers([with_axes(row, batch=16384 // row.case.shape.seq_q) for row in rows]))
    assert {(each.wanted.shape.seq_q, each.wanted.shape.batch) for each in tokens} == {(2880, 5)}
    cache = refinements(crossovers([with_axes(row, seq_q=1, passes="decode") for row in rows]))
    assert {(each.wanted.shape.seq_q, each.wanted.shape.seq_k) for each in cache} == {(1, 2880)}
    keys = refinements(crossovers([with_axes(row, seq_k=77) for row in rows]))
    assert {(each.wanted.shape.seq_q, each.wanted.shape.seq_k) for each in keys} == {(2880, 77)}


def test_a_crossing_with_a_narrow_interval_is_not_refined():
    assert refinements(crossovers(sweep(costs(2300), noise=1e-5))) == []


def test_lengths_that_are_close_together_are_not_refined():
    rows = sweep(costs(2330), lengths=(512, 2300, 2350, 4096), noise=0.05)
    assert refinements(crossovers(rows)) == []


@given(start=st.integers(1, 10**6), gap=st.integers(64, 10**6))
def test_the_middle_lies_between(start, gap):
    assert start < middle(start, start + gap) < start + gap


@pytest.mark.parametrize(("start", "end", "between"), [(512, 1024, 704), (1024, 1088, 1056), (2048, 4096, 2880)])
def test_the_middle_is_as_round_as_the_gap_allows(start, end, between):
    assert middle(start, end) == between


def test_a_grid_may_lack_lengths_of_one_variant():
    rows = [each for each in sweep(costs(1500)) if (each.case.variant, each.case.length) != ("straight", 1024)]
    (found,) = crossovers(rows)
    assert found.between == (512, 2048)
    assert len(LENGTHS) == 4


def failed_at(length, variant, rows):
    """Return rows with that of a variant at a length turned into a failure."""
    gone = {"value": None, "low": None, "high": None, "medians": {}, "status": "invalid_output", "detail": "NaN"}
    return [
        replace(each, **gone) if (each.case.variant, each.case.length) == (variant, length) else each for each in rows
    ]


def test_no_crossing_is_interpolated_across_a_length_at_which_a_variant_failed():
    rows = sweep(costs(1000))
    (found,) = crossovers(rows)
    assert found.between == (512, 1024)
    for variant in ("square", "straight"):
        assert crossovers(failed_at(1024, variant, rows)) == []
        (beside,) = crossovers(failed_at(4096, variant, rows))
        assert (beside.between, beside.swept) == ((512, 1024), (512, 2048))
