"""The Pareto front: who beats whom at no loss, and how sure that is."""

import msgspec
import pytest

from attnbench.analysis.pareto import fronts, most_telling
from attnbench.analysis.rows import rows
from unit.analysis.courses_planted import row
from unit.report.planted import accuracy_job, failed, job, record, value

STEADY = (1.0, 1.001, 0.999, 1.0005, 0.9995)
SCORES = (0.90, 0.902, 0.898, 0.901, 0.899)


EXACT = {"exact": True, "reach": 1.0}


def times(variant, seconds, *, rounds=5, noise=1.0, facts=EXACT, **changes):
    medians = [seconds * (1 + noise * (each - 1)) for each in STEADY[:rounds]]
    return row(variant, changes.pop("seq", 512), medians, facts=facts, **changes)


def scores(variant, centre, *, seeds=5, facts=EXACT, scaled=None, **task_options):
    of = accuracy_job(variant, **task_options)
    of = msgspec.structs.replace(of, probe=msgspec.structs.replace(of.probe, scaled=scaled or {}))
    return rows(
        [
            record(
                msgspec.structs.replace(of, round=seed),
                value(centre + score - SCORES[0], "accuracy", "1", higher_is_better=True),
                facts=facts,
            )
            for seed, score in enumerate(SCORES[:seeds], start=1)
        ]
    )


def once(variant, metric, number, unit):
    kind = "memory" if metric == "memory" else "agreement"
    return [each for each in rows([record(job(variant, kind), value(number, metric, unit))]) if each.metric == metric]


def planted(**figures):
    """Make rows of variants from their (seconds, score)."""
    return [each for name, (seconds, score) in figures.items() for each in (times(name, seconds), *scores(name, score))]


def standings(found, objectives=("latency", "accuracy")):
    (front,) = fronts(found, objectives)
    return {point.variant: point.standing for point in front.points}


def test_a_variant_that_is_clearly_slower_and_clearly_worse_is_dominated_and_the_dominating_one_is_named():
    found = planted(fast=(1.0, 0.9), slow=(2.0, 0.8), exact=(3.0, 0.99))
    assert standings(found) == {"fast": "front", "slow": "dominated", "exact": "front"}
    (front,) = fronts(found)
    assert [[key[0] for key in point.by] for point in front.points] == [[], ["fast"], []]


def test_of_two_variants_equal_in_one_objective_the_one_worse_in_the_other_is_dominated():
    assert standings(planted(a=(1.0, 0.9), b=(1.0, 0.8)))["b"] == "dominated"
    assert set(standings(planted(a=(1.0, 0.9), b=(1.0, 0.9))).values()) == {"front"}


def test_a_variant_that_no_test_shows_to_be_worse_is_not_called_dominated():
    noisy = [times("a", 1.0, noise=100), times("b", 1.02, noise=-100), *scores("a", 0.9), *scores("b", 0.8)]
    assert standings(noisy) == {"a": "front", "b": "unsure"}


@pytest.mark.parametrize(("rounds", "seeds"), [(1, 5), (2, 5), (5, 1), (5, 2)])
def test_fewer_than_three_rounds_or_seeds_dominate_nothing(rounds, seeds):
    found = [
        *(times("a", 1.0, rounds=rounds), times("b", 2.0, rounds=rounds)),
        *(*scores("a", 0.9, seeds=seeds), *scores("b", 0.5, seeds=seeds)),
    ]
    assert standings(found) == {"a": "front", "b": "unsure"}


@pytest.mark.parametrize("seeds", [1, 2])
def test_equal_figures_of_fewer_than_three_seeds_are_not_taken_for_the_same(seeds):
    found = [times("a", 1.0), times("b", 2.0), *scores("a", 0.9, seeds=seeds), *scores("b", 0.9, seeds=seeds)]
    assert standings(found) == {"a": "front", "b": "unsure"}


def sees(share):
    return {"exact": False, "reach": share}


def test_what_is_exact_attention_at_the_length_of_its_task_has_no_standing_at_another():
    found = [times("flash", 2.0, seq=4096), times("sparse", 1.0, seq=4096, facts=sees(0.05))]
    found += [*scores("flash", 0.8), *scores("sparse", 0.9, facts=sees(1.0) | {"exact_here": True})]
    (front,) = fronts(found)
    assert standings(found) == {"flash": "front", "sparse": "exact here"}
    assert front.points[1].why == "exact attention at N = 64, which says nothing of N = 4096"


def test_a_score_counts_only_where_the_mechanism_saw_no_larger_share_of_the_keys_than_at_the_cost():
    found = [times("flash", 2.0, seq=4096), *scores("flash", 0.8)]
    found += [times("same", 1.0, seq=4096, facts=sees(0.05)), *scores("same", 0.7, facts=sees(0.05), scaled={"k": 4})]
    found += [times("more", 1.0, seq=4096, facts=sees(0.05)), *scores("more", 0.9, facts=sees(0.5))]
    found += [times("mute", 1.0, seq=4096, facts={"exact": False}), *scores("mute", 0.9, facts=sees(0.5))]
    assert standings(found) == {"flash": "front", "same": "front", "more": "other regime", "mute": "other regime"}
    reasons = {point.variant: point.why for point in fronts(found)[0].points}
    assert reasons["more"] == "it sees 50% of the keys at N = 64 and 5.0% at N = 4096"
    assert reasons["mute"] == "it does not declare which share of the keys it sees at N = 64 and 4096"


def test_a_score_with_options_scaled_from_the_length_of_the_cost_counts_under_another_mask_too():
    def trained(**scaled):
        (first, *others) = scores("sparse", 0.7, facts=sees(0.17), scaled=scaled)
        of = msgspec.structs.replace(first.case, options={"block": 64})
        return [msgspec.structs.replace(each, case=of) for each in (first, *others) if each.metric == "accuracy"]

    found = [times("flash", 2.0, seq=4096), *scores("flash", 0.8)]
    cost = times("sparse", 1.0, seq=4096, facts=sees(0.06))
    cost = msgspec.structs.replace(cost, case=msgspec.structs.replace(cost.case, options={"block": 64}))
    assert standings([*found, cost, *trained(block=1)])["sparse"] == "front"
    assert standings([*found, cost, *trained(block=4)])["sparse"] == "other regime"


def test_at_the_length_of_its_task_a_score_counts_whatever_the_mechanism_sees():
    found = [times("flash", 2.0, seq=64), times("sparse", 1.0, seq=64, facts={"exact": False})]
    found += [*scores("flash", 0.9), *scores("sparse", 0.7, facts={"exact": False})]
    assert standings(found) == {"flash": "front", "sparse": "front"}


def test_a_variant_that_is_not_compared_dominates_none():
    found = [
        times("flash", 2.0, seq=4096),
        *scores("flash", 0.8),
        times("vanilla", 3.0, seq=4096),
        *scores("vanilla", 0.8),
    ]
    found += [times("sparse", 1.0, seq=4096, facts=sees(0.05)), *scores("sparse", 0.99, facts=sees(0.5))]
    got = standings(found)
    assert got == {"flash": "front", "vanilla": "dominated", "sparse": "other regime"}


def test_a_variant_that_clearly_loses_one_objective_dominates_nothing_however_much_it_wins_elsewhere():
    found = planted(a=(1.0, 0.90), b=(50.0, 0.95))
    assert set(standings(found).values()) == {"front"}


def test_a_further_objective_can_put_a_dominated_variant_on_the_front():
    found = planted(a=(1.0, 0.9), b=(2.0, 0.8))
    found += [*once("a", "memory", 2_000_000, "bytes"), *once("b", "memory", 1_000_000, "bytes")]
    assert standings(found)["b"] == "dominated"
    assert standings(found, ("latency", "accuracy", "memory"))["b"] == "front"


def test_rounding_errors_count_as_equal_whichever_is_smaller():
    found = [times("a", 1.0), times("b", 2.0), times("c", 3.0)]
    found += once("a", "approximation_error", 3e-7, "1") + once("b", "approximation_error", 2e-7, "1")
    found += once("c", "approximation_error", 0.5, "1")
    got = standings(found, ("latency", "approximation_error"))
    assert got == {"a": "front", "b": "dominated", "c": "dominated"}


def test_a_variant_without_a_figure_has_no_standing_and_keeps_its_reason():
    found = [*planted(a=(1.0, 0.9), b=(2.0, 0.8)), times("c", 0.1)]
    found += rows([failed(job("c", "memory"), "unsupported", "no such thing")])
    (front,) = fronts(found)
    last = front.points[-1]
    assert (last.variant, last.standing, last.rows["memory"].detail) == ("c", "", "no such thing")
    assert front.ranked == 2


def test_each_point_of_the_sweep_and_each_task_has_a_front_and_the_longest_is_the_most_telling():
    found = [
        each
        for name, seconds in {"a": 1.0, "b": 2.0}.items()
        for each in (
            *(times(name, seconds, seq=seq) for seq in (512, 1024)),
            *scores(name, 0.9, seq=64),
            *scores(name, 0.9, seq=128),
        )
    ]
    found_fronts = fronts(found)
    assert [(front.axes["seq_q"], front.exams["accuracy"].case.length) for front in found_fronts] == [
        *((512, 64), (512, 128)),
        *((1024, 64), (1024, 128)),
    ]
    told = most_telling(found_fronts)
    assert (told.axes["seq_q"], told.exams["accuracy"].case.length) == (1024, 128)
    assert most_telling([]) is None


def test_a_backward_pass_is_ranked_with_the_memory_of_both_passes_and_the_error_of_its_gradients():
    found = [times(name, seconds, passes="forward-backward") for name, seconds in {"a": 1.0, "b": 2.0}.items()]
    for name in "ab":
        memory = record(job(name, "memory", passes="forward-backward"), value(1000, "memory", "bytes"))
        errors = [
            record(job(name, "agreement", passes=passes), value(error, "approximation_error", "1"))
            for passes, error in (("forward", 0.25), ("backward", 0.5))
        ]
        found += rows([memory, *errors])
    (front,) = fronts(found, ("latency", "memory"))
    assert [point.rows["approximation_error"].value for point in front.points] == [0.5, 0.5]


def test_variants_of_different_runs_are_not_ranked_together():
    found = planted(a=(1.0, 0.9), b=(2.0, 0.8))
    other = [msgspec.structs.replace(each, run="r2") for each in found]
    assert [front.run for front in fronts([*found, *other])] == ["r1", "r2"]


def test_a_run_without_one_of_the_objectives_has_no_front():
    assert fronts([times("a", 1.0), times("b", 2.0)]) == []
