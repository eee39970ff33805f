"""The search for options, on planted qualities and times: each trial is what a machine would have answered."""

from itertools import count, product

import pytest
from msgspec.structs import replace

from attnbench.analysis.rows import rows
from attnbench.answers.further import further
from attnbench.answers.tune.search import first_settings, next_place, tuned
from attnbench.store import Axis, Search, Searched
from helpers.planted import plan
from unit.report.planted import accuracy_job, failed, job, record, timing, value

SIZES = (16, 32, 64, 128, 256, 512)
ONE = Searched(variant="a", options={"k": 64}, axes=(Axis(option="k", values=SIZES),))
TWO = replace(ONE, options={"r": 1, "k": 64}, axes=(Axis(option="r", values=(1, 2, 4, 8)), *ONE.axes))


def search_for(searched, bound, **how):
    timed = tuple(
        job(name, options=options, round=number)
        for number in (1, 2, 3)
        for name, options in (("flash", {}), *((each.variant, first_settings(each)[0]) for each in searched))
    )
    return Search(
        metric="approximation_error", bound=bound, reference="flash", variants=tuple(searched), timed=timed, **how
    )


def answer(one, error, cost):
    if one.probe.kind == "latency":
        return timing(one, cost(one.case.options) if one.case.variant != "flash" else 1e-3, noise=1e-3)
    found = error(one.case.options)
    return failed(one, "error", "broken") if found is None else record(one, value(found, "approximation_error", "1"))


def run(searched, error, cost=lambda _options: 1e-3, bound=0.1):
    """Search to the end; give the options tried, those timed, and what was found."""
    search = search_for(searched, bound)
    jobs = [job(each.variant, "agreement", options=one) for each in searched for one in first_settings(each)]
    planned = replace(plan(jobs, run="r1"), search=search)
    records = [answer(one, error, cost) for one in jobs]
    for stage in count():
        assert stage < 60
        more = further(planned, records)
        if not more:
            break
        planned = planned.with_jobs((*planned.jobs, *more))
        records += [answer(one, error, cost) for one in more]
    tried = [each.job.case.options for each in records if each.job.probe.kind == "agreement"]
    timed = [each.job.case.options for each in records if each.job.probe.kind == "latency" and each.job.round == 1]
    return tried, timed, tuned(rows(records, planned.jobs, run="r1"), search)


@pytest.mark.parametrize("least", SIZES)
def test_the_cheapest_value_that_is_good_enough_is_found_by_halving(least):
    tried, timed, (found,) = run([ONE], lambda options: 0.1 * least / options["k"])
    assert found.best.options == {"k": least}
    assert (len(tried) <= 4, found.trials) == (True, len(tried))
    assert timed == [{}, {"k": least}]
    assert found.best.comparison.ratio == pytest.approx(1, rel=0.01)


def test_two_options_give_all_cheapest_good_enough_settings_and_the_fastest_of_them():
    def error(options):
        return 12.8 / options["r"] / options["k"]

    tried, timed, (found,) = run([TWO], error, cost=lambda options: 1e-5 * options["r"] ** 2 * options["k"])
    assert timed == [{}, *({"r": r, "k": 128 // r} for r in (8, 4, 2, 1))] or len(timed) == 5
    assert {(one["r"], one["k"]) for one in timed if one} == {(1, 128), (2, 64), (4, 32), (8, 16)}
    assert found.best.options == {"r": 1, "k": 128}
    assert len(tried) < 16 < len(list(product((1, 2, 4, 8), SIZES)))


def test_where_no_setting_is_good_enough_only_the_most_expensive_is_tried_and_nothing_is_timed():
    tried, timed, (found,) = run([ONE], lambda options: 0.5 + 1 / options["k"])
    assert (tried, timed) == ([{"k": 512}], [])
    assert (found.best, found.nearest.options) == (None, {"k": 512})
    assert found.nearest.value == pytest.approx(0.5 + 1 / 512)


def test_along_an_axis_that_is_not_monotone_every_value_is_tried():
    free = replace(ONE, axes=(Axis(option="k", values=SIZES, monotone=False),))
    tried, _, (found,) = run([free], lambda options: 0.05 if options["k"] == 32 else 1.0)
    assert (len(tried), found.best.options) == (6, {"k": 32})


def test_a_failed_setting_says_nothing_about_the_others():
    _, _, (found,) = run([ONE], lambda options: None if options["k"] == 512 else 10 / options["k"])
    assert found.best.options == {"k": 128}
    _, _, (broken,) = run([ONE], lambda options: None)
    assert (broken.best, broken.nearest, broken.why) == (None, None, "error: broken")


def test_the_search_ends_even_where_its_trials_contradict_one_another():
    assert next_place(ONE, {(0,): True, (3,): False, (5,): True}) in [(1,), (2,), (4,)]
    everything = {(place,): place % 2 == 0 for place in range(6)}
    assert next_place(ONE, everything) is None


def test_settings_whose_intervals_overlap_are_reported_as_tied():
    _, _, (found,) = run([TWO], lambda options: 12.8 / options["r"] / options["k"], cost=lambda _options: 1e-3)
    assert len(found.tied) >= 2


def test_several_variants_are_searched_and_then_timed_in_the_same_rounds():
    other = replace(ONE, variant="b")
    tried, timed, found = run([ONE, other], lambda options: 12.8 / options["k"])
    assert [each.best.options for each in found] == [{"k": 128}, {"k": 128}]
    assert timed == [{}, {"k": 128}, {"k": 128}]
    assert len(tried) <= 8


def test_a_search_for_accuracy_trains_every_seed_of_a_setting_and_takes_the_bound_as_a_minimum():
    search = replace(search_for([ONE], 0.9, at_least=True), metric="accuracy")
    trained = [replace(accuracy_job("a"), round=seed) for seed in (1, 2, 3)]
    jobs = [replace(one, case=replace(one.case, options={"k": 512})) for one in trained]
    planned = replace(plan(jobs, run="r1"), search=search)

    def score(one):
        seeds = {1: -0.02, 2: 0.0, 3: 0.02}
        return record(one, value(0.9 + one.case.options["k"] / 10_000 + seeds[one.round], "accuracy", "1"))

    wanted = further(planned, [score(one) for one in jobs])
    assert [(one.case.options["k"], one.round) for one in wanted] == [
        (wanted[0].case.options["k"], n) for n in (1, 2, 3)
    ]
    (found,) = tuned(rows([score(one) for one in jobs]), search)
    assert (found.best.options, found.best.sure) == ({"k": 512}, True)
    (doubtful,) = tuned(rows([score(one) for one in jobs]), replace(search, bound=0.95))
    assert (doubtful.best.options, doubtful.best.sure) == ({"k": 512}, False)
