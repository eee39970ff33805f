"""Recommendations from planted rows."""

import pytest
from msgspec.structs import replace

from attnbench.analysis.rows import rows
from attnbench.answers.recommend.needs import Needs
from attnbench.answers.recommend.ranking import recommend
from attnbench.contracts.case import Case, Mask
from attnbench.contracts.errors import UsageError
from attnbench.contracts.specs import Spec
from unit.analysis.courses_planted import sweep
from unit.report.planted import OWN, accuracies, agreements, failed, job, shape

LENGTHS = (512, 1024, 2048, 4096)
FAST, SLOW = (lambda n: 1e-8 * n), (lambda n: 1e-10 * n * n)


def workload(seq=2048, **changes):
    return Case(variant="", shape=shape(seq), **changes)


def planted(noise=1e-3):
    times = [*sweep({"vanilla": SLOW}, noise=noise, origin=OWN), *sweep({"linear": FAST}, noise=noise, origin=OWN)]
    times = [replace(row, facts={"exact": row.case.variant == "vanilla", "reach": 1.0}) for row in times]
    sizes = sweep({"vanilla": lambda n: 32 * n * n, "linear": lambda n: 256 * n}, metric="memory", rounds=1)
    errors = rows([*agreements("vanilla", LENGTHS), *agreements("linear", LENGTHS)])
    return [*times, *sizes, *errors]


def verdicts(found):
    return {line.variant: line.verdict for line in found.lines}


def test_the_fastest_comes_first_with_the_figures_of_its_length():
    found = recommend(planted(), workload(), Needs())
    assert [(line.variant, line.rank, line.tied) for line in found.lines] == [
        ("linear", 1, False),
        ("vanilla", 2, False),
    ]
    first = found.answers[0]
    assert first.latency.value == pytest.approx(FAST(2048), rel=0.01)
    assert (first.memory.value, first.latency.how, first.latency.runs) == (256 * 2048, "measured", ("r1",))


def test_variants_whose_intervals_overlap_share_a_rank_and_the_next_rank_counts_both():
    times = sweep({"a": lambda n: 1e-6 * n, "b": lambda n: 1.001e-6 * n, "c": lambda n: 2e-6 * n}, noise=0.02)
    found = recommend(times, workload(), Needs())
    assert [(line.rank, line.tied) for line in found.lines] == [(1, True), (1, True), (3, False)]
    assert {line.variant for line in found.lines[:2]} == {"a", "b"}


@pytest.mark.parametrize(
    ("needs", "failing", "why"),
    [
        (Needs(memory_bytes=1 << 20), "vanilla", "needs 128 MiB, 1.00 MiB allowed"),
        (Needs(max_error=0.1), "linear", "error 0.710, 0.100 allowed"),
        (Needs(max_latency_s=1e-4), "vanilla", "latency 419 us, 100 us allowed"),
    ],
)
def test_a_variant_that_misses_a_need_is_left_out_with_the_reason(needs, failing, why):
    found = recommend(planted(noise=1e-9), workload(), needs)
    (line,) = [line for line in found.lines if line.verdict == "fails"]
    assert (line.variant, line.why, line.rank) == (failing, (why,), None)
    assert len(found.answers) == 1


def test_a_figure_within_a_bound_that_its_interval_exceeds_is_doubted():
    found = recommend(sweep({"a": FAST}, noise=0.05), workload(), Needs(max_latency_s=FAST(2048) * 1.06))
    (line,) = found.answers
    assert line.doubts[0].startswith("its latency may be ")


def test_a_variant_without_figures_is_unknown_and_a_failed_one_has_its_reason():
    times = sweep({"linear": FAST}, noise=1e-3)
    oom = rows([failed(job("vanilla", "latency", seq=1024), "oom_host", "it needed 9 GiB more than was free")])
    refused = rows([failed(job("linformer", "latency"), "unsupported", "it has no causal form")])
    found = recommend([*times, *oom, *refused], workload(), Needs(memory_bytes=1 << 30))
    told = {line.variant: (line.verdict, *line.why) for line in found.lines}
    assert told["linear"] == ("unknown", "memory not measured")
    assert told["vanilla"] == ("fails", "oom host at 1024: it needed 9 GiB more than was free")
    assert told["linformer"] == ("fails", "unsupported: it has no causal form")
    assert {line.variant: line.lacks for line in found.lines}["linear"] == ("memory",)


def failing(rows_, variant, length, status="invalid_output", metric="latency"):
    """Return rows with one of them replaced by that of a failure."""
    (gone,) = [row for row in rows_ if (row.case.variant, row.case.length, row.metric) == (variant, length, metric)]
    broken = replace(
        gone, value=None, low=None, high=None, medians={}, rounds=0, samples=0, status=status, detail="NaN"
    )
    return [broken if row is gone else row for row in rows_]


@pytest.mark.parametrize("status", ["invalid_output", "error", "crash", "oom_host", "ok"])
def test_a_variant_that_failed_at_the_length_asked_for_is_never_ranked_by_its_neighbours(status):
    found = recommend(failing(planted(), "linear", 2048, status), workload(), Needs())
    assert verdicts(found) == {"vanilla": "meets", "linear": "fails"}
    assert found.lines[1].why == (f"{'no value' if status == 'ok' else status.replace('_', ' ')} at 2048: NaN",)


def test_no_variant_is_ranked_by_an_estimate_across_a_length_at_which_it_failed():
    for asked in (3000, 1500):
        found = recommend(failing(planted(), "linear", 2048), workload(asked), Needs())
        (line,) = [line for line in found.lines if line.variant == "linear"]
        why = "latency not measured, and it failed nearby: invalid output at 2048: NaN"
        assert (line.verdict, line.why, line.lacks) == ("unknown", (why,), ("latency",))
    beyond = recommend(failing(planted(), "linear", 4096), workload(8000), Needs())
    assert verdicts(beyond) == {"vanilla": "meets", "linear": "unknown"}


def test_of_a_failure_and_a_figure_at_one_length_the_later_run_counts():
    old, new = sweep({"a": FAST}), sweep({"a": FAST}, run="r2")
    assert verdicts(recommend([*old, *failing(new, "a", 2048)], workload(), Needs())) == {"a": "fails"}
    assert verdicts(recommend([*failing(old, "a", 2048), *new], workload(), Needs())) == {"a": "meets"}
    assert verdicts(recommend([*old, *failing(new, "a", 2048, "skipped")], workload(), Needs())) == {"a": "meets"}


def test_rows_of_another_workload_are_not_used_and_the_difference_is_named():
    found = recommend(planted(), workload(mask=Mask(causal=True)), Needs())
    assert (found.lines, found.elsewhere) == ((), ("causal True (measured: False)",))
    more = replace(workload(), shape=replace(shape(2048), heads=16, kv_heads=16))
    assert "heads 16 (measured: 8)" in recommend(planted(), more, Needs()).elsewhere


def test_a_length_between_is_interpolated_and_one_far_beyond_is_unknown():
    assert recommend(planted(), workload(3000), Needs()).answers[0].latency.how == "between"
    assert recommend(planted(), workload(8000), Needs()).answers[0].latency.how == "beyond"
    far = recommend(planted(), workload(65536), Needs())
    assert verdicts(far) == {"linear": "unknown", "vanilla": "unknown"}


def test_errors_are_not_carried_beyond_the_lengths_they_were_measured_at():
    found = recommend(planted(), workload(8192), Needs(max_error=0.9))
    assert all("error not measured" in line.why for line in found.lines)


def test_the_latest_run_counts_and_an_older_source_of_a_plugin_does_not():
    old, new = sweep({"a": FAST}), sweep({"a": SLOW}, run="r2")
    assert recommend([*old, *new], workload(), Needs()).answers[0].latency.runs == ("r2",)
    edited = [
        replace(row, origin=replace(row.origin, source_hash="edited")) for row in new if row.case.shape.seq_q == 512
    ]
    (line,) = recommend([*old, *edited], workload(), Needs()).lines
    assert line.verdict == "unknown"


def test_accuracy_is_that_of_the_models_of_the_task_whatever_the_length_asked_for():
    trained = rows([accuracies("vanilla", [0.99, 0.98, 0.97]), accuracies("linear", [0.15, 0.2, 0.1])])
    needs = Needs(min_accuracy=0.9, task=Spec(name="mqar"))
    found = recommend([*planted(), *trained], workload(), needs)
    assert verdicts(found) == {"vanilla": "meets", "linear": "fails"}
    assert found.answers[0].score.seq == 64
    assert found.lines[1].why == ("accuracy on mqar 0.150, at least 0.900 asked",)


def test_a_score_of_a_mechanism_that_saw_more_of_the_keys_is_unknown_at_this_length_and_one_that_fails_still_fails():
    times = [replace(row, facts={"exact": False, "reach": 64 / row.case.length}) for row in sweep({"sparse": FAST})]
    needs = Needs(min_accuracy=0.9, task=Spec(name="mqar"))
    for score, verdict in ((0.99, "unknown"), (0.5, "fails")):
        trained = [
            replace(row, facts={"exact": False, "reach": 1.0, "exact_here": True})
            for row in rows([accuracies("sparse", [score])])
        ]
        (line,) = recommend([*times, *trained], workload(), needs).lines
        assert line.verdict == verdict
        if verdict == "unknown":
            said = "exact attention at N = 64, which says nothing of N = 2048"
            assert line.why == (f"accuracy on mqar is not known at this length: {said}",)


@pytest.mark.parametrize(("reach", "verdict"), [(0.5, "unknown"), (0.02, "meets")])
def test_an_error_on_captured_inputs_counts_where_the_mechanism_saw_no_more_of_the_keys_than_at_this_length(
    reach, verdict
):
    times = [replace(row, facts={"exact": False, "reach": 0.03}) for row in sweep({"sparse": FAST})]
    (error,) = [row for row in rows(agreements("linear", [512])) if row.metric == "approximation_error"]
    case = replace(error.case, variant="sparse", inputs="minilm:1")
    captured = replace(error, case=case, origin=times[0].origin, facts={"exact": False, "reach": reach})
    (line,) = recommend([*times, captured], workload(), Needs(max_error=0.9)).lines
    assert (line.verdict, line.error.lengths) == (verdict, (512,))


def test_where_scores_are_of_several_tasks_one_must_be_named():
    trained = rows([accuracies("vanilla", [0.9]), accuracies("vanilla", [0.5], pairs=32)])
    with pytest.raises(UsageError, match="--task"):
        recommend([*planted(), *trained], workload(), Needs(min_accuracy=0.8))
    named = Spec(name="mqar", options={"pairs": "8"})
    assert recommend([*planted(), *trained], workload(), Needs(min_accuracy=0.8, task=named)).answers


def model(scores, heads, layers):
    (score, *_) = rows([accuracies("vanilla", scores, heads=heads, layers=layers)])
    return score


def test_heads_and_layers_are_chosen_by_score_and_among_ties_by_the_fewest_layers():
    models = [
        model([0.70, 0.71, 0.72], heads=1, layers=2),
        model([0.95, 0.96, 0.97], heads=4, layers=2),
        model([0.955, 0.965, 0.975], heads=4, layers=6),
    ]
    (found,) = recommend([*planted(), *models], workload(), Needs()).heads_and_layers
    assert (found.best.heads, found.best.layers, len(found.tied), found.sure) == (4, 2, 2, True)
    assert recommend([*planted(), models[0]], workload(), Needs()).heads_and_layers == ()


def test_a_variant_that_is_named_but_not_measured_has_a_line():
    found = recommend(planted(), workload(), Needs(), variants=[Spec(name="linear"), Spec(name="moba")])
    assert verdicts(found) == {"linear": "meets", "moba": "unknown"}
