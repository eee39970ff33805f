import numpy as np
import pytest

from attnbench.analysis.rows import rows
from attnbench.analysis.summary import CLOSE, summarised
from helpers.simulated import Machine, measured, plan
from unit.analysis.courses_planted import LENGTHS, sweep
from unit.report.planted import accuracies, accuracy_job, agreements, failed, job, memories, record, timings, value

SWEEPS = 60


def lead_at(found, length, metric="latency"):
    (lead,) = [each for each in found.leads if (each.metric, each.length) == (metric, length)]
    return lead


def test_a_planted_win_is_a_sure_lead_over_the_closest_rival():
    found = summarised(sweep({"slow": lambda n: 9.0 * n, "next": lambda n: 2.0 * n, "fast": float}, noise=0.002))
    assert [(each.best.case.variant, each.sure, each.rival.case.variant) for each in found.leads] == [
        ("fast", True, "next")
    ] * len(LENGTHS)
    assert all(each.rival.low <= 0.5 <= each.rival.high for each in found.leads)


def test_a_planted_tie_is_no_sure_lead_and_is_called_the_same():
    found = summarised(sweep({"one": float, "other": float, "slow": lambda n: 3.0 * n}, noise=0.001))
    assert not any(each.sure for each in found.leads)
    assert all(
        each.even and {each.best.case.variant, each.level[0].case.variant} == {"one", "other"} for each in found.leads
    )


def test_a_difference_hidden_by_noise_is_neither_a_lead_nor_the_same():
    found = summarised(sweep({"one": float, "other": lambda n: 1.02 * n}, noise=0.2))
    assert not any(each.sure or each.even for each in found.leads)


@pytest.mark.parametrize("variants", [2, 5])
def test_of_identical_variants_at_most_one_sweep_in_20_shows_any_difference(variants):
    """On a machine that drifts and wanders; leads, comparisons with the first variant, and crossings."""
    names, rng, false = [f"v{number}" for number in range(variants)], np.random.default_rng(7), 0
    planned = plan(names, 6)
    for _ in range(SWEEPS):
        found = summarised(measured(planned, np.ones(len(planned)), 5, machine=Machine(), rng=rng))
        told = [pair.verdict for each in found.against for pair in each.pairs]
        false += any(each.sure for each in found.leads) or bool({"faster", "slower"} & {*told}) or bool(found.crossings)
    assert false <= 0.05 * SWEEPS


def test_one_round_shows_nothing_however_large_the_difference():
    found = summarised(sweep({"slow": lambda n: 100.0 * n, "fast": float}, rounds=1))
    assert not any(each.sure for each in found.leads)
    assert {pair.verdict for each in found.against for pair in each.pairs} == {"inconclusive"}
    assert (found.rounds, found.crossings) == (1, ())


def test_a_crossing_is_reported_only_where_tests_confirm_both_of_its_sides():
    costs = {"square": lambda n: n * n / 1500, "straight": float}
    (found,) = summarised(sweep(costs, noise=0.002)).crossings
    assert (found.winner.case.variant, found.between) == ("straight", (1024, 2048))
    assert summarised(sweep(costs, noise=0.8)).crossings == ()


def test_variants_close_to_exact_attention_have_their_own_leads_where_an_approximation_is_faster():
    def agreement(variant, error):
        return [record(job(variant, "agreement", seq=512), value(error, "approximation_error", "1"))]

    timed = [each for name in ("vanilla", "flash", "linformer") for each in timings(name, (512, 4096))]
    errors = [*agreement("vanilla", 1e-7), *agreement("flash", CLOSE), *agreement("linformer", 0.5)]
    found = summarised(rows([*timed, *errors]))
    assert lead_at(found, 4096).best.case.variant == "linformer"
    assert found.close == ()  # at 512 flash leads anyway, and of 4096 no error is known
    longer = [job(name, "agreement", seq=4096) for name in ("vanilla", "flash")]
    errors += [record(each, value(1e-7, "approximation_error", "1")) for each in longer]
    (near,) = summarised(rows([*timed, *errors])).close
    assert (near.length, near.best.case.variant, near.rival.case.variant, near.sure) == (4096, "flash", "vanilla", True)


def test_memory_leads_are_counts_and_need_no_rounds():
    found = summarised(rows([*memories("vanilla", (512,)), *memories("linformer", (512,))]))
    lead = lead_at(found, 512, "memory")
    assert (lead.best.case.variant, lead.sure, lead.rival.why) == ("linformer", True, "counted once, not sampled")


def test_the_higher_score_leads_and_only_where_seeds_confirm_it_is_the_lead_sure():
    def scores(variant, each):
        of = accuracy_job(variant)
        return [record(of, *accuracies(variant, each).outcome.measurements)]

    def found(*pairs):
        (lead,) = summarised(rows([one for variant, each in pairs for one in scores(variant, each)])).leads
        return lead.best.case.variant, lead.sure

    assert found(("a", (0.2, 0.21, 0.19)), ("b", (0.9, 0.91, 0.92)))[0] == "b"
    assert not found(("a", (0.2, 0.9, 0.4)), ("b", (0.9, 0.3, 0.5)))[1]


def test_cases_without_a_figure_are_missing_and_pending_ones_are_not():
    records = [*timings("flash", (512,)), failed(job("linear"), "unsupported", "it has no window")]
    found = summarised(rows(records, [*(each.job for each in records), job("vanilla", seq=64)]))
    assert [(row.case.variant, row.status) for row in found.missing] == [("linear", "unsupported")]


def test_errors_are_those_at_the_longest_length_smallest_first():
    found = summarised(rows([each for name in ("linformer", "flash") for each in agreements(name, (512, 1024))]))
    assert [(row.case.variant, row.case.shape.seq_q) for row in found.errors] == [("flash", 1024), ("linformer", 1024)]


def test_without_rows_the_summary_is_empty():
    found = summarised([])
    assert (found.leads, found.against, found.baseline, found.rounds) == ((), (), None, 0)
