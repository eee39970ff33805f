import math

import msgspec
import pytest
from scipy import stats as scipy_stats

from attnbench.analysis.compare import compare
from attnbench.analysis.rows import rows
from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Measurement, Origin
from attnbench.contracts.specs import parse_specs
from helpers.planted import with_axes
from helpers.simulated import blank, timed, twin
from unit.report.planted import accuracy_job, agreements, failed, job, record, value

STEADY = [1.0, 1.001, 0.999, 1.0005, 0.9995]


def latency(medians, variant="vanilla", *, run="base", seq=512):
    return timed(blank(variant, seq=seq, run=run), medians)


def scaled(factor, medians=STEADY):
    return [factor * each for each in medians]


def across(base, new):
    """Compare the medians of one case in two runs."""
    (pair,) = compare([latency(base)], [latency(new, run="new")]).pairs
    return pair


def within(base, new, **more):
    run = [latency(base, "old"), latency(new, "new")]
    return compare(run, run, variants=parse_specs("old,new", flag=""), **more)


def only(base, new, **more):
    (pair,) = compare(base, new, **more).pairs
    return pair


def measured(of, *measurements, run="base"):
    return rows([record(of, *measurements, run=run)])


def seeds(scores, variant="vanilla", *, run="base"):
    of = accuracy_job(variant)
    return rows(
        [
            record(msgspec.structs.replace(of, round=seed), _score(score), run=run)
            for seed, score in enumerate(scores, start=1)
        ]
    )


def _score(score):
    return Measurement(metric="accuracy", unit="1", values=(score,), higher_is_better=True)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.25, "slower"), (0.8, "faster"), (1.0, "same"), (1.002, "same"), (0.998, "same")]
)
def test_a_clear_difference_is_called_faster_or_slower_and_a_clear_lack_of_one_the_same(factor, verdict):
    assert across(STEADY, scaled(factor)).verdict == verdict
    assert within(STEADY, scaled(factor, STEADY[::-1])).pairs[0].verdict == verdict


def test_two_runs_are_compared_by_welch_on_the_logarithms_of_their_process_medians():
    base, new = [1.0, 1.1, 0.95, 1.02], [1.2, 1.3, 1.15, 1.25, 1.22]
    logs = [[math.log(each) for each in side] for side in (new, base)]
    expected = scipy_stats.ttest_ind(*logs, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    pair = across(base, new)
    assert (pair.paired, pair.p) == (False, pytest.approx(expected.pvalue))
    assert (pair.low, pair.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert (pair.base_rounds, pair.new_rounds) == (4, 5)


def test_the_two_figures_beside_a_ratio_are_those_of_which_it_is_the_quotient():
    pair = across([149.0, 149.0, 100.0], [135.0, 135.0, 127.5])  # medians of 149 and 135 say the opposite
    assert pair.ratio > 1
    assert pair.ratio == pytest.approx(pair.new_value / pair.base_value)
    untested = across([149.0, 100.0], [135.0, 127.5])
    assert untested.ratio == pytest.approx(untested.new_value / untested.base_value)


def test_variants_of_one_run_are_compared_round_by_round_which_cancels_drift():
    drifting = [1.0, 1.3, 1.7, 2.2, 2.9]
    slower = [1.05 * each * wobble for each, wobble in zip(drifting, STEADY, strict=True)]
    pair = within(drifting, slower).pairs[0]
    assert (pair.paired, pair.verdict) == (True, "slower")
    assert pair.ratio == pytest.approx(1.05, rel=1e-3)
    assert across(drifting, slower).verdict == "inconclusive"


def test_a_pair_counts_the_rounds_that_both_sides_have():
    run = [latency(STEADY, "old"), msgspec.structs.replace(latency(STEADY, "new"), medians={2: 1.0, 4: 1.0, 9: 5.0})]
    pair = compare(run, run, variants=parse_specs("old,new", flag="")).pairs[0]
    assert (pair.verdict, pair.why) == ("inconclusive", "2 rounds in common; a verdict needs 3")


@pytest.mark.parametrize(
    ("base", "new", "why"),
    [
        ([1.0], [2.0], "1 round; a verdict needs 3 on each side"),
        ([1.0] * 5, [2.0, 2.0], "5 and 2 rounds; a verdict needs 3 on each side"),
    ],
)
def test_fewer_than_three_rounds_give_a_ratio_and_no_verdict(base, new, why):
    pair = across(base, new)
    assert (pair.ratio, pair.low, pair.p, pair.verdict, pair.why) == (2.0, None, None, "inconclusive", why)


def test_an_effect_within_the_band_is_not_called_faster_or_slower_however_significant():
    pair = across(STEADY, scaled(1.0095))
    assert pair.p_adjusted < 0.05
    assert pair.verdict == "inconclusive"
    assert pair.why.endswith(", but not beyond 1.0%")


def test_the_band_is_the_larger_floor_of_both_runs():
    noisy = [1.0, 1.1, 0.9, 1.1, 0.9]
    base = [latency(STEADY), timed(twin(blank("vanilla")), noisy)]
    found = compare(base, [latency(scaled(1.05), run="new")])
    assert found.floor == found.pairs[0].band > 0.05
    assert found.pairs[0].verdict != "slower"
    assert compare([latency(STEADY)], [latency(scaled(1.05), run="new")]).pairs[0].verdict == "slower"


def test_with_a_noise_floor_above_10_percent_nothing_is_called_the_same():
    wild = timed(twin(blank("vanilla")), [1.2, 0.8, 1.3, 0.7, 1.25])
    pair = compare([latency(STEADY), wild], [latency(STEADY, run="new")]).pairs[0]
    assert (pair.verdict, pair.band > 0.1) == ("inconclusive", True)
    assert pair.why.endswith("too wide a band to call anything the same")


def test_rounds_that_agree_by_luck_are_inconclusive_where_the_floor_allows_the_difference():
    twins = [timed(twin(blank("vanilla")), [1.02, 0.98, 1.01, 1.03, 0.96])]
    base, new = [latency([1.0] * 5)], [latency([1.03, 1.0301, 1.0299, 1.03, 1.03], run="new")]
    lucky, alone = compare([*base, *twins], new).pairs[0], compare(base, new).pairs[0]
    assert (alone.verdict, lucky.verdict) == ("slower", "inconclusive")
    assert lucky.p == alone.p == alone.p_adjusted < 1e-6
    assert lucky.p_adjusted > 0.05 > lucky.band


def test_p_values_are_adjusted_for_the_number_of_cells():
    lengths = [64 * number for number in range(1, 37)]
    doubtful = [1.02, 1.06, 1.02, 1.08, 1.04]
    base = [latency([1.0, 1.02, 0.98, 1.01, 0.99], seq=seq) for seq in lengths]
    new = [latency(doubtful if seq == 64 else STEADY, run="new", seq=seq) for seq in lengths]
    alone, family = compare(base[:1], new[:1]).pairs[0], compare(base, new).pairs[0]
    assert (alone.verdict, family.verdict) == ("slower", "inconclusive")
    assert (alone.p, alone.p_adjusted) == (family.p, alone.p)
    assert family.p_adjusted > alone.p


def test_a_case_that_only_one_run_has_is_incomparable():
    found = compare([latency(STEADY), latency(STEADY, seq=64)], [latency(STEADY, run="new")])
    assert [(pair.verdict, pair.why) for pair in found.pairs] == [
        ("same", "the 90% interval is within 1.0%"),
        ("incomparable", "only in the base"),
    ]
    assert only([], [latency(STEADY)]).why == "only in the new"


def test_a_case_without_a_figure_is_incomparable_with_its_status_and_reason():
    good, bad = latency(STEADY), rows([failed(job("vanilla"), "oom_host", "cannot allocate 8 GiB")])
    good = msgspec.structs.replace(bad[0], value=1.0, status="ok", medians={1: 1.0}, samples=1, detail="")
    assert only([good], bad).why == "new: oom_host: cannot allocate 8 GiB"
    assert only(bad, bad).why == "both: oom_host: cannot allocate 8 GiB"
    pending = rows([], [job("vanilla")])
    assert only(pending, [good]).why == "base: not measured yet"


def test_memory_is_counted_and_needs_no_rounds():
    def memory(size, run="base"):
        return measured(job("vanilla", "memory"), value(size, "memory", "bytes"), run=run)

    verdicts = {size: only(memory(1000), memory(size, "new")).verdict for size in (900, 1000, 1009, 1011)}
    assert verdicts == {900: "lower", 1000: "same", 1009: "same", 1011: "higher"}
    pair = only(memory(1000), memory(900, "new"))
    assert (pair.ratio, pair.low, pair.p, pair.why) == (0.9, None, None, "counted once, not sampled")
    assert (only(memory(0), memory(0)).verdict, only(memory(0), memory(8)).verdict) == ("same", "higher")


def test_errors_are_deterministic_and_compared_without_a_test():
    base, new = (rows(agreements(variant, [512])) for variant in ("linformer", "reformer"))
    pair = only(base, new, variants=parse_specs("linformer,reformer", flag=""))
    assert (pair.metric, pair.verdict) == ("approximation_error", "lower")
    assert pair.why == "computed once from the seed, not sampled"


def test_accuracy_is_compared_over_seeds_in_its_own_terms():
    pair = only(seeds([0.50, 0.51, 0.49]), seeds([0.80, 0.81, 0.79], run="new"))
    assert (pair.verdict, pair.one.higher_is_better, pair.paired) == ("higher", True, False)
    assert pair.ratio == pytest.approx(1.6)
    assert pair.low < 1.6 < pair.high
    assert only(seeds([0.5, 0.7, 0.3]), seeds([0.6, 0.8, 0.4], run="new")).verdict == "inconclusive"
    assert only(seeds([0.8, 0.8001, 0.7999]), seeds([0.8, 0.8001, 0.7999], run="new")).verdict == "same"
    assert only(seeds([0.0, 0.0, 0.0]), seeds([0.3, 0.31, 0.29], run="new")).ratio is None
    few = only(seeds([0.5, 0.6]), seeds([0.9, 0.9], run="new"))
    assert (few.verdict, few.why) == ("inconclusive", "2 seeds; a verdict needs 3 on each side")


def test_seeds_within_a_run_are_not_paired():
    run = [*seeds([0.5, 0.6, 0.7], "old"), *seeds([0.6, 0.7, 0.8], "new")]
    assert not only(run, run, variants=parse_specs("old,new", flag="")).paired


def test_secondary_metrics_and_the_harness_are_compared_only_when_asked_for():
    first = value(9, "first_call")
    base, new = (measured(job("vanilla"), value(5), first, run=run) for run in ("base", "new"))
    floor = measured(job("empty"), value(5))
    assert [pair.metric for pair in compare([*base, *floor], new).pairs] == ["latency"]
    assert [pair.metric for pair in compare(base, new, metrics=["first_call"]).pairs] == ["first_call"]


def test_a_failed_case_is_listed_under_each_metric_asked_of_its_probe():
    base = measured(job("vanilla", "memory"), value(5, "memory", "bytes"), value(7, "memory_resident", "bytes"))
    new = rows([failed(job("vanilla", "memory"), "crash", "SIGSEGV")])
    (pair,) = compare(base, new, metrics=["memory_resident"]).pairs
    assert (pair.metric, pair.base_value, pair.why) == ("memory_resident", 7, "new: crash: SIGSEGV")


def test_a_metric_that_a_case_lacks_does_not_affect_its_other_metrics():
    left_out = {"kept_mass": "left out: too long"}
    error = value(0.5, "approximation_error", "1")
    base, new = (rows([record(job(name, "agreement"), error, facts=left_out)]) for name in ("linformer", "reformer"))
    names = parse_specs("linformer,reformer", flag="")
    assert [row.metric for row in base] == ["approximation_error", "kept_mass"]
    assert only(base, new, variants=names).verdict == "same"


def test_an_edited_source_is_still_the_same_case():
    another = Origin(distribution="attnbench", version="0.2.0", source_hash="another")
    edited = msgspec.structs.replace(latency(STEADY, run="new"), origin=another)
    pair = only([latency(STEADY)], [edited])
    assert (pair.verdict, pair.other.origin.name) == ("same", "attnbench 0.2.0")


def test_options_are_matched_as_they_are_typed():
    run = [
        with_axes(latency(STEADY, "linformer"), options={"k": k, "share": share})
        for k, share in ((64, True), (128, True), (128, False))
    ]
    pair = only(run, run, variants=parse_specs("linformer:k=64,linformer:k=128,share=True", flag=""))
    assert (pair.base.case.options["k"], pair.new.case.options["k"]) == (64, 128)
    with pytest.raises(UsageError, match="may be linformer:k=128,share=true or linformer:k=128,share=false"):
        compare(run, run, variants=parse_specs("linformer:k=64,linformer:k=128", flag=""))
    with pytest.raises(UsageError, match="has no 'flash'; it has linformer:k=64"):
        compare(run, run, variants=parse_specs("linformer:k=64,flash", flag=""))
    with pytest.raises(UsageError, match="are the same rows"):
        compare(run, run, variants=parse_specs("linformer:k=64,linformer:k=64", flag=""))


def test_a_plugin_in_a_file_is_found_by_the_path_and_name_as_typed():
    run = [latency(STEADY), latency(scaled(1.25), "Mine")]
    assert only(run, run, variants=parse_specs("vanilla,./my/plugin.py:Mine", flag="")).verdict == "slower"


def test_cases_that_differ_only_in_ignored_axes_are_paired():
    new = with_axes(latency(STEADY, run="new"), device="cuda:0", seed=3)
    assert len(compare([latency(STEADY)], [new]).pairs) == 2
    assert only([latency(STEADY)], [new], ignoring=["device", "seed"]).verdict == "same"


def test_the_mean_over_a_sweep_is_geometric_and_counts_rounds_and_not_cells():
    drift = [1.0, 1.01, 0.99, 1.02, 0.98]
    base = [latency(scaled(factor, drift), seq=seq) for factor, seq in ((1.0, 64), (7.0, 128))]
    new = [latency(scaled(factor, drift), run="new", seq=seq) for factor, seq in ((2.0, 64), (3.5, 128))]
    mean, one = compare(base, new).mean, compare(base[:1], new[:1]).pairs[0]
    assert (mean.ratio, mean.cells) == (pytest.approx(1.0), 2)
    assert mean.high / mean.low == pytest.approx(one.high / one.low)


def test_the_mean_over_cells_of_single_rounds_has_no_interval():
    mean = compare([latency([1.0])], [latency([2.0], run="new")]).mean
    assert (mean.ratio, mean.low, mean.high, mean.cells) == (2.0, None, None, 1)
    assert compare(seeds([0.5]), seeds([0.5], run="new")).mean is None
