import math

import pytest
from msgspec.structs import replace

from attnbench.analysis.roofline import derived
from attnbench.analysis.rows import rows
from attnbench.contracts.case import Mask
from attnbench.contracts.metrics import Metric
from attnbench.contracts.record import Measurement, Origin
from attnbench.report.latex import latex
from attnbench.report.markdown import markdown
from attnbench.report.table import legend, tables
from attnbench.report.terminal import Tables, as_text
from helpers.reported import RATES
from unit.report.planted import accuracies, accuracy_job, failed, floor, job, record, timings, value
from unit.report.scenarios import SCENARIOS


def blocks(records, planned=(), metrics=None):
    return tables(rows(records, planned), metrics)


def block(records, planned=()):
    (found,) = blocks(records, planned)
    return found


def texts(found):
    return {line.name: [cell.text for cell in line.cells] for group in found.groups for line in group.lines}


def best(found):
    return [(line.name, place) for group in found.groups for line in group.lines for place in bests(line)]


def bests(line):
    return [place for place, cell in enumerate(line.cells) if cell.best]


def latency(variant, seconds, **changes):
    return record(job(variant, **changes), value(round(seconds * 1e9)))


def test_blocks_are_ordered_by_latency_of_each_pass_memory_agreement_and_accuracy():
    passes = [each for each in SCENARIOS["heads"]()[0] if each.job.case.variant != "flash"]
    titles = [each.title for each in blocks(passes + SCENARIOS["complete"]()[0])]
    assert titles == [
        "Latency, forward (us)",
        "Latency, forward-backward (us)",
        "Peak memory above the inputs, forward (MiB)",
        "Approximation error against exact attention, forward",
        "Accuracy",
    ]


def test_a_metric_asked_for_is_shown_alone_with_the_cells_that_failed():
    records = [*timings("vanilla", (512,)), failed(job("linear"), "timeout", "silent")]
    (found,) = blocks(records, metrics=["first_call"])
    assert found.title == "First call, forward (ms)"
    assert texts(found) == {"vanilla": ["3.29"], "linear": ["timeout"]}


def test_each_metric_asked_for_has_a_block():
    assert [each.title for each in blocks(timings("vanilla", (512,)), metrics=["latency", "first_call"])] == [
        "Latency, forward (us)",
        "First call, forward (ms)",
    ]


def test_a_failed_variant_is_listed_with_the_others_even_where_a_task_has_its_own_metric():
    trained = job("vanilla", "accuracy", passes="", task="adding")
    other = job("linear", "accuracy", passes="", task="adding")
    found = block([record(trained, value(0.1, "error", "1")), failed(other, "unsupported", "no")])
    assert found.title == "Error"
    assert texts(found) == {"vanilla": ["0.100"], "linear": ["unsupported"]}


def test_a_column_is_a_length_and_a_line_is_a_variant():
    found = block([latency("a", 1, seq=1024), latency("a", 2, seq=512), latency("b", 3, seq=512)])
    assert (found.across, found.columns) == ("seq", ("512", "1024"))
    assert texts(found) == {"a": ["2.00", "1.00"], "b": ["3.00", ""]}


def test_the_columns_of_decoding_are_numbers_of_keys():
    found = block([latency("a", 1, seq_q=1, seq_k=keys, passes="decode") for keys in (512, 1024)])
    assert (found.across, found.columns, found.axes) == ("seq k", ("512", "1024"), ())


def test_a_block_has_one_unit_which_is_in_its_title():
    found = block([latency("a", 5e-5), latency("a", 0.3, seq=4096)])
    assert found.title == "Latency, forward (ms)"
    assert texts(found) == {"a": ["0.0500", "300"]}


def test_a_block_without_a_number_has_no_unit():
    assert block([failed(job(), "crash", "signal 11")]).title == "Latency, forward"


@pytest.mark.parametrize(
    ("field", "one", "other", "heading"),
    [
        ("heads", 4, 8, "heads"),
        ("head_dim", 64, 128, "head dim"),
        ("batch", 1, 2, "batch"),
        ("dtype", "float32", "float16", "dtype"),
        ("device", "cpu", "cuda:0", "device"),
        ("level", "core", "layer", "level"),
        ("inputs", "normal", "outliers", "inputs"),
        ("seed", 0, 1, "seed"),
        ("kv_heads", 2, 8, "kv heads"),
        ("seq_k", 100, 200, "seq k"),
        ("mask", Mask(), Mask(causal=True), "causal"),
        ("mask", Mask(causal=True), Mask(causal=True, window=9), "window"),
    ],
)
def test_an_axis_has_a_column_of_labels_only_if_it_varies(field, one, other, heading):
    several = block([latency("a", 1, **{field: each}) for each in (one, other)])
    assert several.axes == (heading,)
    assert len(several.groups) == 2
    assert block([latency("a", 1, **{field: other})]).axes == ()


def test_heads_and_key_heads_that_vary_together_are_one_axis():
    assert block([latency("a", 1, heads=each) for each in (4, 8)]).axes == ("heads",)


def test_groups_are_ordered_by_their_axes():
    found = block([latency(name, 1, heads=each) for name, several in (("a", (16, 8)), ("b", (4,))) for each in several])
    assert [group.labels for group in found.groups] == [("4",), ("8",), ("16",)]


def test_the_context_names_once_what_all_cells_share():
    found = block([latency("a", 1, mask=Mask(causal=True, window=64), kv_heads=2, level="layer")])
    assert found.context == "batch 1, heads 8, kv heads 2, head dim 64, causal, window 64, float32, cpu, level layer"


def test_a_batch_that_follows_from_the_length_is_named_in_the_context():
    found = block([latency("a", 1, seq=seq, batch=4096 // seq) for seq in (512, 1024, 2048)])
    assert found.axes == ()
    assert found.context.startswith("batch 8/4/2, ")


def test_the_best_of_a_column_is_the_least_within_its_group():
    records = [latency(name, time, heads=heads) for name, heads, time in _TIMES]
    assert best(block(records)) == [("b", 0), ("a", 0)]


_TIMES = [("a", 4, 2), ("b", 4, 1), ("a", 8, 3), ("b", 8, 4)]


def test_the_best_accuracy_is_the_greatest():
    assert best(block([accuracies("a", (0.5,)), accuracies("b", (0.6,))])) == [("b", 0)]


def test_variants_that_tie_for_the_best_are_both_marked():
    assert best(block([latency("a", 1), latency("b", 1), latency("c", 2)])) == [("a", 0), ("b", 0)]


def test_the_only_number_of_a_column_is_not_called_best():
    assert best(block([latency("a", 1), failed(job("b"), "crash")])) == []


def test_the_smallest_rounding_error_is_not_marked_as_best():
    several = [record(job(name, "agreement"), value(1e-7, "approximation_error", "1")) for name in ("a", "b")]
    assert best(block(several)) == []


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("unsupported", "unsupported"),
        ("invalid_output", "invalid"),
        ("oom_device", "oom"),
        ("oom_host", "oom"),
        ("timeout", "timeout"),
        ("crash", "crash"),
        ("device_lost", "lost"),
        ("interrupted", "interrupted"),
        ("skipped", "skipped"),
        ("error", "error"),
    ],
)
def test_a_cell_without_a_number_is_a_word_with_the_reason_below(status, word):
    found = block([failed(job("a"), status, "the reason")])
    assert texts(found) == {"a": [word]}
    assert found.notes == (f"a: {status.replace('_', ' ')}: the reason",)


def test_a_cell_not_measured_yet_is_shown_as_pending_without_a_reason():
    found = block([latency("a", 1)], [job("a"), job("b")])
    assert texts(found)["b"] == ["pending"]
    assert found.notes == ()


def test_a_figure_that_is_not_finite_is_shown_as_a_word_with_its_reason():
    found = block([record(job("a", "agreement"), value(math.nan, "approximation_error", "1"))])
    assert texts(found) == {"a": ["no value"]}
    assert found.notes == ("a: 1 of 1 values not finite",)


def test_a_reason_shared_by_several_variants_is_given_once():
    records = [failed(job(name, seq=seq), "unsupported", "no window") for name in ("a", "b") for seq in (512, 1024)]
    assert block(records).notes == ("a, b: unsupported: no window",)


def test_a_reason_names_its_columns_where_it_does_not_hold_for_all():
    records = [latency("a", 1), failed(job("a", seq=1024), "oom_device", "2 GiB")]
    assert block(records).notes == ("a at 1024: oom device: 2 GiB",)


def test_of_reasons_that_differ_only_in_a_number_the_first_is_shown():
    records = [failed(job("a", seq=seq), "oom_device", f"needs {seq} GiB") for seq in (512, 1024, 2048)]
    assert block(records).notes == ("a: oom device: needs 512 GiB (and 2 more like it)",)


def test_a_reason_of_many_lines_is_shortened():
    (note,) = block([failed(job("a"), "error", "first\n  second\n" + "x" * 1000)]).notes
    assert note.startswith("a: error: first second xxx")
    assert len(note) < 320


def test_flags_are_explained_below_the_table():
    records = [record(job("a", seq=seq), value(1, flags=("few_samples", "odd_thing"))) for seq in (512, 1024)]
    assert block(records).notes == ("a: few samples, cut short by the cap", "a: flagged odd thing")


def test_dependence_on_later_tokens_is_noted_below_the_errors():
    leaking = record(job("a", "agreement"), value(0.1, "approximation_error", "1", flags=("later_tokens",)))
    note, *_ = block([leaking]).notes
    assert note.startswith("a: its output depends on later tokens")


def test_a_kept_mass_that_was_not_measured_is_shown_as_a_word_with_its_reason():
    short, long = job("a", "agreement"), job("a", "agreement", seq=4096)
    error = value(0.1, "approximation_error", "1")
    records = [
        record(short, error, value(0.4, "kept_mass", "1", higher_is_better=True)),
        record(long, error, facts={"kept_mass": "left out: the reason"}),
    ]
    (found,) = tables(rows(records), ["kept_mass"])
    assert found.title == "Share of exact attention's 16 heaviest weights that is kept, forward"
    assert texts(found) == {"a": ["0.400", "no value"]}
    assert found.notes[0] == "a at 4096: left out: the reason"


def test_kernels_are_listed_where_they_are_not_named_like_the_variant():
    ran = [record(job(name), value(1), backend=kernel) for name, kernel in (("flash", "sdpa"), ("math", "math"))]
    assert block(ran).notes == ("kernels: flash = sdpa",)


def test_the_empty_variant_is_shown_as_the_floor_and_not_as_a_line():
    found = block([*floor((512, 1024)), latency("a", 1)])
    assert list(texts(found)) == ["a"]
    assert found.floor == "1.20 us"


def test_the_empty_variant_is_a_line_where_it_is_alone():
    found = block(floor((512,)))
    assert list(texts(found)) == ["empty"]
    assert found.floor == ""


def test_variants_of_one_name_are_labelled_with_the_options_in_which_they_differ():
    records = [latency("a", 1, options={"k": 1, "x": True, "n": None}), latency("a", 2, options={"k": 2, "x": True})]
    assert list(texts(block(records))) == ["a:k=1,n=null", "a:k=2"]


def test_a_variant_whose_name_is_unique_is_labelled_without_options():
    assert list(texts(block([latency("a", 1, options={"k": 1})]))) == ["a"]


def test_a_cell_measured_again_after_an_edit_shows_the_last_figure_with_a_note():
    edited = [latency("a", time, origin=Origin(path="a.py", source_hash=code)) for time, code in ((1, "x"), (2, "y"))]
    found = block(edited)
    assert texts(found) == {"a": ["2.00"]}
    assert found.notes == ("a: measured again as code or protocol changed, the last is shown",)


def test_variants_with_equal_labels_have_separate_lines():
    found = block([latency("a", 1, options={"k": 1}), latency("a", 2, options={"k": "1"})])
    assert [[cell.text for cell in line.cells] for line in found.groups[0].lines] == [["1.00"], ["2.00"]]


def test_variants_of_one_name_and_different_origins_are_labelled_with_the_origin():
    assert list(texts(block([latency("a", 1), latency("a", 2, origin=Origin(path="mine.py"))]))) == [
        "a (attnbench 0.1.0)",
        "a (mine.py)",
    ]


def test_tasks_are_columns_labelled_with_the_options_in_which_they_differ():
    records = [accuracies("a", (0.5,), seq=seq, pairs=pairs) for seq in (64, 128) for pairs in (4, 8)]
    assert block(records).columns == (
        "mqar:pairs=4 (64)",
        "mqar:pairs=8 (64)",
        "mqar:pairs=4 (128)",
        "mqar:pairs=8 (128)",
    )


def test_a_preset_is_in_a_heading_only_where_tasks_differ_in_it():
    def scored(task):
        return record(
            job("a", "accuracy", seq=64, passes="", task=task, task_options={"length": 64}), value(0.5, "accuracy", "1")
        )

    assert block([scored("mqar:preset=tiny")]).columns == ("mqar (64)",)
    several = ["mqar:preset=tiny", "mqar:preset=tiny,layers=4", "mqar:preset=large"]
    assert block([scored(task) for task in several]).columns == (
        "mqar:preset=large (64)",
        "mqar:preset=tiny (64)",
        "mqar:preset=tiny,layers=4 (64)",
    )


def test_the_learning_rates_that_a_search_found_are_listed_by_variant():
    def trained(variant, rate, **facts):
        return record(accuracy_job(variant), value(0.5, "accuracy", "1"), facts={"learning_rate": rate} | facts)

    assert block([trained("a", 0.01), trained("b", 0.01)]).notes == ()
    told = block([trained("a", 0.01, searched_rates="0.01, 0.1"), trained("b", 0.0316, searched_rates="0.01, 0.0316")])
    assert told.notes == ("learning rates, the best of those searched: a 0.01, b 0.0316",)


def test_models_of_one_task_that_differ_in_size_and_trainings_that_diverged_are_noted():
    def trained(variant, parameters, *, diverged=False):
        facts = {"parameters": parameters, "diverged": diverged}
        return record(accuracy_job(variant), value(0.5, "accuracy", "1"), facts=facts)

    alike = block([trained("a", 1000), trained("b", 1050), trained("c", 950)])
    assert alike.notes == ()
    told = block([trained("a", 1000), trained("b", 1051), trained("c", 1000, diverged=True)]).notes
    assert told == (
        "c: a training diverged, its best weights before that were tested",
        "models differ in size at mqar (64): a 1,000 parameters, b 1,051 (+5.1%)",
    )


def test_a_plugin_with_the_name_of_the_harness_floor_is_a_row_like_any_other():
    found = block([latency("empty", 1), latency("empty", 2, origin=Origin(path="mine.py")), latency("a", 3)])
    assert found.floor == "1.00 s"
    assert [[cell.text for cell in line.cells] for line in found.groups[0].lines] == [["2.00"], ["3.00"]]


def test_a_task_that_no_variant_could_learn_still_has_its_block():
    found = block([failed(accuracy_job("a"), "timeout", "silent")])
    assert (found.title, found.columns) == ("Accuracy", ("mqar (64)",))


def test_each_run_has_its_own_blocks():
    records = [record(job("a"), value(1000), run=run) for run in ("r1", "r2")]
    assert [each.title for each in blocks(records)] == ["r1: latency, forward (us)", "r2: latency, forward (us)"]


def test_intervals_are_percentages_for_times_and_absolute_for_scores():
    timed = [latency("a", seconds, round=number) for number, seconds in enumerate((1, 1.01, 0.99), 1)]
    latencies, scores = blocks([*timed, accuracies("a", (0.9, 0.91, 0.92))])
    assert [cell.margin for cell in latencies.cells] == ["2.5%"]
    assert [cell.margin for cell in scores.cells] == ["0.025"]
    assert (latencies.replicates, scores.replicates) == ("3 rounds", "3 seeds")


def test_a_count_that_repeats_exactly_has_no_interval():
    records = [record(job("a", "memory", round=number), value(2**20, "memory", "bytes")) for number in (1, 2, 3)]
    assert [cell.margin for cell in block(records).cells] == [""]


def test_noise_is_marked_beside_its_number():
    times = {"calm": (1, 1.01), "noisy": (1, 1.1), "wild": (1, 2)}
    found = block([latency(name, each, round=n) for name, two in times.items() for n, each in enumerate(two, 1)])
    assert [cell.mark for cell in found.cells] == ["", "~", "!"]


def test_no_rows_are_no_blocks():
    assert blocks([]) == []


def test_energy_has_its_own_block_in_one_unit_and_says_why_a_figure_is_missing():
    windows = Measurement(metric="energy", unit="J", values=(0.0123, 0.0121, 0.0125), flags=("shared_device",))
    refused = failed(job("linear", "energy"), "unsupported", "energy is read from the counter of an NVIDIA GPU")
    found = block([record(job("flash", "energy"), windows), refused])
    assert found.title == "Energy per call, forward (mJ)"
    assert texts(found) == {"flash": ["12.3"], "linear": ["unsupported"]}
    assert [cell.margin for cell in found.cells] == ["", ""]
    assert any("other processes used the GPU" in note for note in found.notes)


def test_a_score_of_what_is_exact_attention_at_its_length_is_marked_and_is_never_the_best():
    exact, sparse = (accuracies(name, (0.9, 0.91, 0.92)) for name in ("vanilla", "sparse"))
    exact = with_facts(exact, exact=True, reach=1.0, exact_here=True)
    sparse = with_facts(sparse, exact=False, reach=1.0, exact_here=True)
    linear = with_facts(accuracies("linear", (0.2, 0.21, 0.22)), exact=False, reach=1.0, exact_here=False)
    (block,) = tables(rows([exact, sparse, linear]))
    cells = {line.name: line.cells[0] for line in block.groups[0].lines}
    assert [(cell.mark, cell.best) for cell in cells.values()] == [("", True), ("=", False), ("", False)]
    assert "= exact attention at this length" in legend([block], best="*", replicates=())


def test_a_note_names_the_share_of_keys_that_was_seen_and_the_options_that_were_scaled_for_it():
    of = accuracies("sparse", (0.9,))
    job = replace(of.job, case=replace(of.job.case, options={"block": 64, "globals": 1}))
    job = replace(job, probe=replace(job.probe, scaled={"block": 2, "globals": 1}))
    (block,) = tables(rows([with_facts(replace(of, job=job), exact=False, reach=0.055, exact_here=False)]))
    assert "share of the keys that a query sees: sparse 5.5% (block=2); others see all" in block.notes


def with_facts(record, **facts):
    return replace(record, outcome=replace(record.outcome, facts=facts))


FORMS = {"table": lambda found: as_text(Tables(found)), "md": markdown, "latex": latex}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("metric", "title", "unit"),
    [
        ("roofline_share", "share of the roofline", ""),
        ("bandwidth", "bandwidth", "(GB/s)"),
        ("flop_rate", "rate of the operations", "(GFLOP/s)"),
    ],
)
def test_a_variant_without_a_figure_does_not_decide_the_unit_of_the_others(form, metric, title, unit):
    counted = {"flops": 130_000, "bytes_executed": 10_000_000, "bytes_least": 1_000_000, "bytes_by": "counter"}
    timed = record(job("linear"), value(7_692_308), facts=counted)
    found = rows([failed(job("vanilla"), "crash", "SIGSEGV"), timed])
    found += derived(found, RATES)
    text = FORMS[form](tables(found, [metric]))
    heading = next(line for line in text.splitlines() if title in line.lower())
    assert unit in heading
    assert "(s)" not in heading
    assert "(ms)" not in heading
    line = next(line for line in text.splitlines() if line.replace("|", "").split()[:1] == ["linear"])
    (number,) = [row.value for row in found if row.metric == metric]
    scale = {"": 1, "(GB/s)": 1e9, "(GFLOP/s)": 1e9}[unit]
    assert f"{number / scale:.3g}"[:5] in line
    assert "crash" in text


def test_a_failure_stands_in_the_blocks_of_its_own_plugins_metric_alone():
    one, other = (Metric(name=name, title=name) for name in ("one", "other"))
    records = [
        record(job("vanilla", "metric", declared=one), value(1, "one", "1")),
        record(job("linear", "metric", declared=one), value(2, "one", "1")),
        failed(job("linear", "metric", declared=other), "crash", "SIGSEGV"),
        record(job("vanilla", "metric", declared=other), value(3, "other", "1")),
    ]
    first, second = map(texts, blocks(records))
    assert (first, second) == ({"vanilla": ["1.00"], "linear": ["2.00"]}, {"vanilla": ["3.00"], "linear": ["crash"]})
