import math

import pytest
from msgspec.structs import replace

from attnbench.analysis.summary import summarised
from attnbench.report.encoding import coded
from attnbench.report.figure import Figure, Heatmap, Point, distinct, named, place_labels
from attnbench.report.heads import by_heads
from attnbench.report.lengths import by_length
from attnbench.report.plotly import plotly
from attnbench.report.roofline import by_intensity
from attnbench.report.styles import style
from attnbench.report.tradeoffs import by_cost
from helpers.reported import RATES, report, reported
from unit.report.planted import (
    COSTS,
    accuracies,
    accuracy_job,
    agreements,
    failed,
    job,
    memories,
    record,
    timing,
    timings,
)
from unit.report.scenarios import HOSTILE, SCENARIOS

LENGTHS = (512, 1024, 2048)


def lengths_of(*several):
    return {section.key: section for section in by_length(report(*several))}


def only(section):
    (figure,) = section.figures
    return figure


def series_named(figure, name):
    (found,) = [each for each in figure.series if each.name == name]
    return found


def test_a_line_has_a_point_at_each_length_in_one_unit_with_its_interval():
    figure = only(lengths_of([*timings("vanilla", LENGTHS), *timings("linear", LENGTHS)])["latency"])
    assert (figure.name, figure.x.log, figure.y.log, figure.y.title) == ("latency-forward", True, True, "latency (us)")
    line = series_named(figure, "vanilla")
    assert [point.x for point in line.points] == list(LENGTHS)
    for point, length in zip(line.points, LENGTHS, strict=True):
        assert point.y == pytest.approx(1e6 * COSTS["vanilla"](job(seq=length).case.shape), rel=0.02)
        assert point.low <= point.y <= point.high
        assert point.told[0] == f"vanilla, N = {length}"
        assert "5 rounds" in point.told[2]


def test_each_probe_has_a_section_of_its_own_and_a_probe_without_values_has_none():
    records = [*timings("flash", LENGTHS), *memories("flash", LENGTHS), *agreements("flash", LENGTHS)]
    assert list(lengths_of(records)) == ["latency", "memory", "agreement"]
    assert lengths_of([failed(job("flash"), "crash", "it fell")]) == {}


def test_each_setting_has_its_own_figure_named_by_what_differs():
    section = lengths_of(SCENARIOS["heads"]()[0])["latency"]
    assert section.facets == {"pass": ["forward", "forward-backward"], "heads": ["4", "8", "16"]}
    assert len(section.figures) == 6
    assert len({figure.name for figure in section.figures}) == 6
    assert "latency-forward-heads-16" in {figure.name for figure in section.figures}


def test_a_length_that_some_variants_lack_is_noted_below_the_figure():
    figure = only(lengths_of([*timings("vanilla", LENGTHS[:2]), *timings("linear", LENGTHS)])["latency"])
    assert figure.notes == ("no figure at 2048: vanilla",)


def test_scores_have_a_linear_axis_and_a_task_of_several_lengths_is_one_line():
    records = [accuracies("vanilla", (0.9, 0.91, 0.92), length=seq, seq=seq) for seq in (64, 128)]
    figure = only(lengths_of(records)["accuracy"])
    assert not figure.y.log
    assert [point.x for point in figure.series[0].points] == [64, 128]
    assert "seed" in figure.series[0].points[0].told[2]


def test_variants_at_a_single_length_are_drawn_side_by_side_under_their_names():
    figure = only(lengths_of([*timings("vanilla", (512,)), *timings("linear", (512,))])["latency"])
    assert (figure.x.ticks, figure.x.title) == (("vanilla", "linear"), "sequence length 512")
    assert [each.points[0].x for each in figure.series] == [0, 1]
    assert not any(each.line for each in figure.series)


def test_a_share_of_zero_is_drawn_where_an_error_of_zero_cannot_be():
    zero = [
        record(job("linear", "agreement", seq=seq), _share("kept_mass"), _share("numerical_error")) for seq in LENGTHS
    ]
    titles = [figure.title for figure in lengths_of(zero)["agreement"].figures]
    assert len(titles) == 1
    assert "kept" in titles[0]


def _share(metric):
    return replace(agreements("linear", LENGTHS)[0].outcome.measurements[0], metric=metric, values=(0.0,))


def test_runs_share_a_figure_and_a_variant_keeps_its_style_in_all_of_them():
    figure = only(
        lengths_of(timings("flash", LENGTHS), [*timings("linear", LENGTHS), *timings("flash", LENGTHS)])["latency"]
    )
    assert [(each.name, each.variant, each.run) for each in figure.series] == [
        ("flash (r1)", 0, 0),
        ("linear (r2)", 1, 1),
        ("flash (r2)", 0, 1),
    ]


def test_a_variant_of_two_versions_is_one_variant_but_namesakes_in_one_run_are_two():
    other = replace(job("flash").origin, version="0.2.0")
    upgraded = [replace(each, job=replace(each.job, origin=other)) for each in timings("flash", LENGTHS)]
    assert report(timings("flash", LENGTHS), upgraded).legend == ("flash",)
    assert len(report([*timings("flash", LENGTHS), *upgraded]).legend) == 2


def test_runs_on_different_devices_share_a_figure():
    cuda = timings("flash", LENGTHS, device="cuda:0")
    assert len(only(lengths_of(timings("flash", LENGTHS), cuda)["latency"]).series) == 2
    assert len(lengths_of([*timings("flash", LENGTHS), *cuda])["latency"].figures) == 2


def heatmaps(records):
    found = report(records)
    return [figure for each in by_heads(found, [summarised(found.runs[0].rows).against]) for figure in each.figures]


def test_a_heatmap_shows_the_speedup_of_a_variant_by_heads_and_length():
    records = [
        timing(job(name, seq=seq, heads=heads, round=number), factor * heads * seq * 1e-7, noise=0.0005)
        for name, factor in (("vanilla", 4.0), ("flash", 1.0))
        for seq in LENGTHS
        for heads in (4, 8)
        for number in (1, 2, 3, 4, 5)
    ]
    (heat,) = heatmaps(records)
    assert (heat.columns, heat.rows) == (("512", "1024", "2048"), ("4", "8"))
    assert heat.facets == {"variant": "flash"}
    assert all(
        cell.colour == pytest.approx(2, abs=0.02) and cell.text.startswith(("4.0", "3.9")) for cell in heat.cells
    )
    assert len(heat.cells) == 6


def test_an_undecided_cell_is_marked_and_a_single_number_of_heads_has_no_heatmap():
    records = [
        timing(job(name, heads=heads, round=number), 1e-3, noise=0.3)
        for name in ("one", "other")
        for heads in (4, 8)
        for number in (1, 2, 3)
    ]
    (heat,) = heatmaps(records)
    assert all(cell.text.startswith("~") for cell in heat.cells)
    assert heatmaps([*timings("vanilla", LENGTHS), *timings("flash", LENGTHS)]) == []


def test_heads_that_share_a_constant_width_are_in_one_heatmap():
    records = [
        each
        for name in ("vanilla", "flash")
        for heads in (4, 8)
        for each in timings(name, LENGTHS, heads=heads, head_dim=512 // heads)
    ]
    (heat,) = heatmaps(records)
    assert heat.rows == ("4", "8")


def test_the_trade_off_shows_each_variant_at_the_longest_length_and_joins_the_front():
    records = [each for name in ("vanilla", "flash", "linformer") for each in timings(name, (512, 16384), noise=0.001)]
    records += [each for name in ("vanilla", "flash", "linformer") for each in agreements(name, (512, 16384))]
    (section,) = by_cost(report(records))
    figure = only(section)
    assert (figure.name, figure.x.log, figure.y.log) == ("tradeoff-approximation-error-forward", True, True)
    assert figure.title.endswith("N = 16384")
    front = series_named(figure, "Pareto front")
    assert len(front.points) == 2
    assert series_named(figure, "vanilla").points[0].faint
    assert [point.x for point in front.points] == [
        series_named(figure, name).points[0].x for name in ("linformer", "flash")
    ]


def test_the_trade_off_against_a_task_has_a_linear_axis():
    records = [each for name in ("vanilla", "linformer") for each in timings(name, LENGTHS)]
    records += [
        record(accuracy_job(name), *accuracies(name, scores).outcome.measurements)
        for name, scores in {"vanilla": (0.9, 0.91, 0.92), "linformer": (0.5, 0.51, 0.52)}.items()
    ]
    (section,) = by_cost(report(records))
    figure = only(section)
    assert figure.facets == {"against": "accuracy on mqar (64)"}
    assert not figure.y.log


def worked(variant, flops, moved, seconds):
    of = [job(variant, seq=seq, round=number) for seq in LENGTHS for number in (1, 2, 3)]
    timed = [timing(each, seconds, noise=0.001) for each in of]
    return [
        replace(each, outcome=replace(each.outcome, facts={"flops": flops, "bytes_least": moved})) for each in timed
    ]


def test_a_point_of_the_roofline_is_what_was_executed_for_each_byte_and_its_rate():
    (section,) = by_intensity(report(worked("flash", 4 * 10**9, 10**8, 0.1)))
    figure = only(section)
    bound, line = figure.series
    assert all(point.x == pytest.approx(40, rel=1e-3) for point in line.points)
    assert all(point.y == pytest.approx(40, rel=0.02) for point in line.points)  # GFLOP/s
    (share,) = [line for line in line.points[0].told if line.endswith("% of the roofline")]
    assert float(share.partition("%")[0]) == pytest.approx(40, rel=0.02)
    assert bound.variant is None
    assert [point.x for point in bound.points] == pytest.approx([20, 80], rel=1e-3)
    assert [point.y for point in bound.points] == pytest.approx([100, 100])


def test_the_bound_bends_where_bandwidth_and_matrix_rate_meet():
    (section,) = by_intensity(report(worked("flash", 10**9, 10**8, 0.1)))
    bound = only(section).series[0]
    assert [(point.x, point.y) for point in bound.points] == [
        (pytest.approx(5, rel=1e-3), pytest.approx(50, rel=1e-3)),
        (pytest.approx(10), pytest.approx(100)),
        (pytest.approx(20, rel=1e-3), pytest.approx(100)),
    ]


def test_without_the_machines_rates_no_bound_is_drawn_and_a_note_says_so():
    from attnbench.report.reported import Report

    unknown = replace(RATES, bytes_per_s=None)
    (section,) = by_intensity(Report([reported(worked("flash", 10**9, 10**8, 0.1), rates=unknown)]))
    figure = only(section)
    assert all(each.variant is not None for each in figure.series)
    assert "no bound is drawn" in figure.notes[0]


def test_no_two_of_45_variants_look_alike_even_without_colours():
    looks = [style(place) for place in range(45)]
    assert len({(look.colour, look.marker, look.dash) for look in looks}) == 45
    assert len({(look.marker, look.dash) for look in looks[:40]}) == 40


@pytest.mark.parametrize("name", [*HOSTILE, "CON", "..", "", "a" * 300])
def test_the_name_of_a_figures_file_is_safe_whatever_is_drawn(name):
    made = named(["latency", name])
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert made.startswith("latency")
    assert len(made) <= 100


def test_figures_that_would_have_one_name_are_numbered():
    (figure,) = lengths_of(timings("flash", LENGTHS))["latency"].figures
    assert [each.name for each in distinct([figure, figure])] == ["latency-forward", "latency-forward-2"]


def test_labels_of_neighbours_stand_on_different_sides():
    points = [Point(x=1, y=1, label="left end"), Point(x=100, y=1, label="one"), Point(x=101, y=1, label="other")]
    placed = place_labels([*points, Point(x=10000, y=1, label="end")], log_y=True)
    assert placed[1].side != placed[2].side


def test_plotly_gets_the_same_points_and_no_html_tags():
    records = [timing(job(name, seq=seq), 1e-3 * place) for place, name in enumerate(HOSTILE, 1) for seq in LENGTHS]
    figure = only(lengths_of(records)["latency"])
    drawn = plotly(figure)
    assert [trace["x"] for trace in drawn["data"]] == [[float(each) for each in LENGTHS]] * len(HOSTILE)
    for trace, series in zip(drawn["data"], figure.series, strict=True):
        assert trace["y"] == pytest.approx([point.y for point in series.points], rel=1e-4)
        assert trace["meta"] == [series.variant, series.run]
        assert "<" not in trace["name"]
        assert "<" not in "".join(trace["hovertext"]).replace("<br>", "")
    assert any("&lt;script&gt;" in trace["name"] for trace in drawn["data"])


def test_plotly_gets_error_bars_as_distances_and_ticks_at_the_lengths():
    figure = only(lengths_of(timings("flash", LENGTHS))["latency"])
    drawn = plotly(figure)
    (trace,) = drawn["data"]
    assert trace["error_y"]["array"] == pytest.approx([p.high - p.y for p in figure.series[0].points], rel=1e-3)
    assert drawn["layout"]["xaxis"]["ticktext"] == ["512", "1024", "2048"]


def test_plotly_gets_a_heatmap_as_a_grid_with_a_symmetric_scale():
    (heat,) = [each for each in heatmaps(SCENARIOS["heads"]()[0]) if isinstance(each, Heatmap)][:1]
    (trace,) = plotly(heat)["data"]
    assert (len(trace["z"]), len(trace["z"][0])) == (len(heat.rows), len(heat.columns))
    assert trace["zmin"] == -trace["zmax"]


def test_every_point_of_every_scenario_can_be_drawn():
    for name, made in SCENARIOS.items():
        for section in by_length(report(made()[0])):
            for figure in section.figures:
                assert isinstance(figure, Figure)
                values = [value for each in figure.series for point in each.points for value in (point.x, point.y)]
                assert values, name
                assert all(map(math.isfinite, values))
                assert plotly(figure)["data"]


def test_encoded_columns_hold_each_word_once_and_repeats_as_counts():
    (word, flag, number) = coded({"a": ["x", "x", "y"], "b": [True, False, False], "c": [0.123456789, None, 2.0]})[
        "columns"
    ]
    assert word == {"name": "a", "words": ["x", "y"], "runs": [0, 2, 1, 1]}
    assert flag == {"name": "b", "words": ["yes", "no"], "runs": [0, 1, 1, 2]}
    assert number == {"name": "c", "numbers": [0.1234568, None, 2]}


def test_encoded_columns_escape_unprintable_characters():
    (column,) = coded({"a": ["\x1b[31mred", "a\nb"]})["columns"]
    assert column["words"] == [r"\x1b[31mred", r"a\nb"]
