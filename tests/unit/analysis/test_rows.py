import math
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.analysis.rows import rows
from attnbench.contracts.record import PENDING, Measurement, Origin, Probe
from attnbench.contracts.specs import Spec, parse_specs
from attnbench.report.table import tables
from unit.report.planted import accuracies, accuracy_job, failed, job, record, value
from unit.report.scenarios import SCENARIOS


def only(records, planned=()):
    (row,) = rows(records, planned)
    return row


def latency(number, seconds, **changes):
    return record(job(round=number, **changes), value(round(seconds * 1e9)))


def test_values_are_read_as_stored_whether_integers_floats_or_null_stand_together():
    values = {"a": (2**53 - 1, 3), "b": (0.5, 7), "c": (None, 1), "d": (-4,)}
    found = rows(
        [record(job(name), Measurement(metric="latency", unit="s", values=each)) for name, each in values.items()]
    )
    assert [row.value for row in found] == [2.0**52 + 1, 3.75, None, -4.0]
    assert [row.detail for row in found] == ["", "", "1 of 2 values not finite", ""]


def test_a_row_has_the_flags_of_all_rounds_each_once():
    flags = [("once",), (), ("few_samples", "once")]
    (row,) = rows(
        [
            record(job(round=number), Measurement(metric="latency", unit="s", values=(1.0,), flags=each))
            for number, each in enumerate(flags, 1)
        ]
    )
    assert row.flags == ("once", "few_samples")


def test_a_figure_is_the_median_of_the_medians_of_its_processes_in_seconds():
    processes = [(1000, 3000, 2000), (5000, 5000, 5000), (4000, 9000, 1000)]
    records = [
        record(job(round=number), Measurement(metric="latency", unit="ns", values=samples))
        for number, samples in enumerate(processes, 1)
    ]
    row = only(records)
    assert (row.value, row.unit, row.samples, row.rounds) == (4e-6, "s", 9, 3)
    assert row.low < row.value < row.high
    assert (row.min, row.noise) == (1e-6, "very noisy")
    assert row.iqr == pytest.approx(3e-6)


def test_rounds_of_a_case_share_a_row_and_other_cases_do_not():
    found = rows([latency(1, 1), latency(2, 2), latency(1, 9, seq=1024), latency(1, 9, heads=4)])
    assert sorted((row.case.shape.seq_q, row.case.shape.heads, row.rounds, row.value) for row in found) == [
        (512, 4, 1, 9),
        (512, 8, 2, 1.5),
        (1024, 8, 1, 9),
    ]


def test_two_runs_are_two_rows():
    found = rows([record(job(), value(10**9), run=run) for run in ("a", "b")])
    assert [row.run for row in found] == ["a", "b"]


def test_the_highest_attempt_counts_in_whatever_order_it_was_stored():
    records = [record(job(attempt=2), value(2 * 10**9)), failed(job(attempt=1), "crash", "signal 11")]
    for stored in (records, records[::-1]):
        assert (only(stored).status, only(stored).value, only(stored).detail) == ("ok", 2, "")


def test_the_last_of_two_records_of_one_attempt_counts():
    assert only([latency(1, 1), latency(1, 2)]).value == 2


def test_a_retry_that_fails_counts_too():
    assert only([latency(1, 1), failed(job(attempt=2), "crash", "signal 11")]).status == "crash"


def test_a_round_that_failed_is_named_beside_the_figure_of_the_others():
    records = [latency(1, 1), failed(job(round=2), "timeout", "silent for 120 s"), latency(3, 3)]
    row = only([*records, *(failed(job(round=number), "skipped", "round 2 failed") for number in (4, 5))])
    assert (row.status, row.value, row.rounds) == ("ok", 2, 2)
    assert row.detail == "round 2 timeout: silent for 120 s; rounds 4, 5 skipped: round 2 failed"


def test_rounds_skipped_because_the_case_is_measured_once_are_not_reported():
    slow = record(job(), value(9 * 10**9, flags=("once",)))
    row = only([slow, failed(job(round=2), "skipped", "measured once in round 1")])
    assert (row.status, row.detail, row.flags, row.noise) == ("ok", "", ("once",), "")


def test_a_failed_round_gives_its_status_to_the_rounds_skipped_because_of_it():
    records = [failed(job(), "oom_device", "needs 34 GiB"), failed(job(round=2), "skipped", "round 1 failed")]
    row = only(records)
    assert (row.status, row.detail, row.value, row.rounds) == ("oom_device", "needs 34 GiB", None, 0)


def test_the_last_of_several_failures_counts():
    records = [failed(job(round=2), "timeout", "silent"), failed(job(), "crash", "signal 11")]
    assert (only(records).status, only(records).detail) == ("timeout", "silent")


def test_a_case_whose_rounds_were_all_skipped_is_skipped():
    row = only([failed(job(), "skipped", "the time budget is spent")])
    assert (row.status, row.detail) == ("skipped", "the time budget is spent")


@pytest.mark.parametrize(
    ("kind", "metric", "unit"),
    [
        ("latency", "latency", "s"),
        ("memory", "memory", "bytes"),
        ("agreement", "approximation_error", "1"),
        ("accuracy", "accuracy", "1"),
        ("energy", "energy", "J"),
    ],
)
def test_a_failed_job_is_one_row_under_the_main_metric_of_its_probe(kind, metric, unit):
    row = only([failed(job(kind=kind), "error", "why")])
    assert (row.metric, row.unit, row.status, row.detail, row.primary) == (metric, unit, "error", "why", True)


def test_a_planned_job_without_a_record_is_pending():
    found = rows([latency(1, 1)], [job(), job(round=2), job(seq=1024), job(seq=1024, round=2)], run="r1")
    assert [(row.run, row.case.length, row.status, row.detail, row.rounds) for row in found] == [
        ("r1", 512, "ok", "", 1),
        ("r1", 1024, "interrupted", PENDING, 0),
    ]


def test_records_of_jobs_and_rounds_that_are_not_planned_make_no_row():
    records = [latency(1, 1), latency(2, 9), latency(1, 1, seq=1024), latency(1, 1, heads=4)]
    row = only(records, [job()])
    assert (row.case, row.value, row.rounds) == (job().case, 1, 1)


def test_rows_of_a_merged_run_have_its_id_whichever_run_the_records_came_from():
    merged = [record(job(round=number), value(10**9), run=f"r{number}") for number in (1, 2)]
    (row,) = rows(merged, [job(), job(round=2)], run="merged")
    assert (row.run, row.rounds) == ("merged", 2)


def test_an_interrupted_job_is_distinguished_from_one_that_never_started():
    assert only([failed(job(), "interrupted", "Ctrl-C")], [job()]).detail == "Ctrl-C"


def test_accuracy_is_the_mean_over_seeds_with_its_interval_and_no_noise_verdict():
    found = {row.metric: row for row in rows([accuracies("vanilla", (0.9, 0.92, 0.97))])}
    score = found["accuracy"]
    assert score.value == pytest.approx(0.93)
    assert (score.high - score.value) == pytest.approx(score.value - score.low)
    assert (score.samples, score.noise, score.higher_is_better, score.primary) == (3, "", True, True)
    assert not found["loss"].primary
    assert score.task == "mqar:preset=tiny,length=64,pairs=8"
    assert score.facts == {"rate": 0.003}


def test_seeds_trained_in_separate_rounds_are_averaged_as_seeds():
    scored = [
        record(job(kind="accuracy", passes="", task="t", round=n), value(n / 10, "accuracy", "1")) for n in (1, 2, 6)
    ]
    assert (only(scored).value, only(scored).samples, only(scored).probe.label) == (pytest.approx(0.3), 3, "t")


def test_a_task_is_named_as_typed_and_its_complete_options_are_kept_beside_it():
    row = only([failed(accuracy_job("vanilla", pairs=4), "error")])
    assert row.task == accuracy_job("vanilla", pairs=4).probe.task
    assert parse_specs(row.task, flag="--tasks") == (
        Spec(name="mqar", options={"preset": "tiny", "length": "64", "pairs": "4"}),
    )
    assert row.probe.task_options == {"length": 64, "pairs": 4, "layers": 2}


@pytest.mark.parametrize(("metric", "flags"), [("validation_curve", ()), ("course", ("curve",))])
def test_a_curve_over_a_training_makes_no_row(metric, flags):
    course = Measurement(metric=metric, unit="1", values=(0.1, 0.5, 0.9), flags=flags)
    found = rows([record(accuracy_job("vanilla"), value(0.8, "accuracy", "1"), course)])
    assert [(row.metric, row.value, row.low) for row in found] == [("accuracy", 0.8, None)]


def test_planned_jobs_have_the_id_of_their_run_before_anything_is_recorded():
    assert only([], [job()]).run == ""
    (row,) = rows([], [job()], run="20260101-000000-aaaa")
    assert (row.run, row.detail) == ("20260101-000000-aaaa", PENDING)


def test_one_diverged_seed_flags_the_score_of_all_seeds():
    seeds = [
        record(msgspec.structs.replace(accuracy_job("vanilla"), round=n), value(0.5, "accuracy", "1"), facts=facts)
        for n, facts in enumerate([{"diverged": True}, {"diverged": False}], 1)
    ]
    assert only(seeds).flags == ("diverged",)


def test_the_primary_metric_of_a_task_without_accuracy_is_the_first_it_measured():
    trained = job(kind="accuracy", passes="", task="adding")
    found = rows([record(trained, value(0.1, "error", "1"), value(3, "loss", "1"))])
    assert {row.metric: row.primary for row in found} == {"error": True, "loss": False}


@pytest.mark.parametrize("number", [None, math.nan, math.inf, -math.inf, 1e300])
def test_a_row_with_a_value_that_is_not_finite_has_no_figure_and_counts_such_values(number):
    broken = Measurement(metric="approximation_error", unit="1", values=(number, 1.0), flags=("non_finite",))
    row = only([record(job(kind="agreement"), broken)])
    assert (row.status, row.value, row.low, row.min, row.samples) == ("ok", None, None, None, 2)
    assert row.detail == "1 of 2 values not finite"


def test_one_diverged_seed_is_not_left_out_of_the_mean():
    row = rows([accuracies("vanilla", (0.9, math.nan, 0.9))])[0]
    assert (row.value, row.detail) == (None, "1 of 3 values not finite")


@given(st.lists(st.lists(st.floats() | st.integers(-(2**63), 2**63) | st.none(), max_size=5), min_size=1, max_size=5))
def test_no_value_of_a_measurement_is_too_odd_to_summarise(processes):
    records = [
        record(job(round=number), Measurement(metric="latency", unit="bytes", values=tuple(values)))
        for number, values in enumerate(processes, 1)
    ]
    row = only(records)
    assert all(each is None or math.isfinite(each) for each in (row.value, row.low, row.high, row.spread, row.iqr))


def test_a_job_that_measured_nothing_says_so():
    row = only([record(job())])
    assert (row.status, row.value, row.detail) == ("ok", None, "it measured nothing")


def test_kernels_are_named_once_each_when_rounds_used_different_ones():
    ran = [record(job(round=number), value(1), backend=name) for number, name in enumerate(("a", "a", "b"), 1)]
    assert only(ran[:2]).backend == "a"
    assert only(ran).backend == "a, b"


def test_an_edited_plugin_has_rows_of_its_own():
    edited = Origin(distribution="mine", version="1", source_hash="b")
    found = rows([latency(1, 1, origin=msgspec.structs.replace(edited, source_hash="a")), latency(1, 2, origin=edited)])
    assert [(row.origin.name, row.origin.source_hash) for row in found] == [("mine 1", "a"), ("mine 1", "b")]


def test_outliers_are_counted_within_their_own_process():
    calm, shifted = (100,) * 9 + (500,), (200,) * 10
    records = [
        record(job(round=number), Measurement(metric="latency", unit="ns", values=samples))
        for number, samples in enumerate((calm, shifted), 1)
    ]
    assert only(records).outliers == 1


def test_rows_come_by_metric_then_by_variant_as_planned_then_by_shape():
    records, _ = SCENARIOS["complete"]()
    found = rows(records[::-1], [each.job for each in records])
    metrics = list(dict.fromkeys(row.metric for row in found))
    assert metrics == [
        "latency",
        "first_call",
        "memory",
        "numerical_error",
        "approximation_error",
        "accuracy",
        "loss",
    ]
    timed = [(row.case.variant, row.case.shape.seq_q) for row in found if row.metric == "latency"]
    variants = ["empty", "vanilla", "linformer", "reformer", "sparse", "linear", "flash"]
    assert timed == [(variant, seq) for variant in variants for seq in (512, 1024, 2048, 4096, 8192, 16384)]


def test_20_000_records_are_summarised_within_seconds():
    samples = tuple(range(1_000_000, 1_000_200))
    measured = (Measurement(metric="latency", unit="ns", values=samples), value(10**7, "first_call"))
    records = [
        record(job(f"v{place % 10}", seq=64 + place // 10, round=number), *measured)
        for place in range(4000)
        for number in (1, 2, 3, 4, 5)
    ]
    began = time.process_time()
    assert len(rows(records, [each.job for each in records])) == 8000
    assert time.process_time() - began < 5  # a loose bound: 1 s on a quiet core


def test_a_run_in_progress_has_the_figures_measured_so_far():
    row = only([latency(1, 1), latency(2, 3)], [job(round=number) for number in (1, 2, 3)])
    assert (row.value, row.rounds, row.low) == (2, 2, None)


def test_a_row_holds_the_median_of_each_rounds_process() -> None:
    records = [
        record(job("flash", round=number), Measurement(metric="latency", unit="ns", values=(number * 10, 1, 10**9)))
        for number in (3, 1)
    ]
    (row,) = rows(records)
    assert row.medians == pytest.approx({1: 1e-8, 3: 3e-8})
    assert list(row.medians) == [1, 3]


def test_the_second_of_two_identical_measurements_has_its_own_metrics_and_appears_in_no_table() -> None:
    plain = job("flash")
    again = msgspec.structs.replace(plain, probe=Probe(kind="latency", twin=True))
    lost = msgspec.structs.replace(again, round=2)
    first, second = rows([record(plain, value(5, "latency", "ns")), record(again, value(6, "latency", "ns"))])
    assert (first.metric, first.primary) == ("latency", True)
    assert (second.metric, second.primary) == ("latency_twin", False)
    (failure,) = rows([failed(lost, "timeout", "late")])
    assert (failure.metric, failure.status, failure.primary) == ("latency_twin", "timeout", False)
    (block,) = tables([first, second, failure])
    assert [cell.text for cell in block.cells] == ["5.00"]


def test_a_metric_that_a_measured_case_lacks_is_a_row_with_the_reason():
    facts = {"rows": 256, "kept_mass": "left out: too many keys"}
    found = rows([record(job(kind="agreement"), value(0.1, "approximation_error", "1"), facts=facts)])
    assert [(row.metric, row.status, row.value, row.detail, row.primary) for row in found] == [
        ("approximation_error", "ok", 0.1, "", True),
        ("kept_mass", "ok", None, "left out: too many keys", False),
    ]
