import math

import pytest
from msgspec.structs import replace

from attnbench.analysis.summary import summarise
from attnbench.report.encoding import coded
from attnbench.report.figure import Axis, Figure, HeatCell, Heatmap, Point, Series, distinct, named
from attnbench.report.heads import by_heads
from attnbench.report.labels import sides
from attnbench.report.lengths import by_length
from attnbench.report.roofline import by_intensity
from attnbench.report.styles import FASTER, PAGE, SLOWER, style, tint
from attnbench.report.tradeoffs import by_cost
from attnbench.report.vega import chart
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


def test_a_metric_of_one_run_is_drawn_where_another_run_has_none_of_it():
    both = [*timings("flash", LENGTHS), *memories("flash", LENGTHS)]
    figure = only(lengths_of(both, timings("flash", LENGTHS))["memory"])
    assert [series.run for series in figure.series] == [0]


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
    return [figure for each in by_heads(found, [summarise(found.runs[0].rows).against]) for figure in each.figures]


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
    assert (figure.name, figure.x.log, figure.y.log) == (
        "tradeoff-approximation-error-on-normal-inputs-16384-forward",
        True,
        True,
    )
    assert figure.title.endswith("N = 16384")
    front = series_named(figure, "Pareto front")
    assert len(front.points) == 2
    assert series_named(figure, "vanilla").points[0].hollow
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


def scattered(*points, line=False, log=True):
    axis = Axis(title="latency", log=log)
    each = Series(name="a", variant=None if line else 0, run=0, points=points, line=line)
    return Figure(name="f", title="f", facets={}, x=axis, y=axis, series=(each,))


def test_labels_of_neighbours_stand_on_different_sides():
    points = [Point(x=1, y=1, label="left end"), Point(x=100, y=1, label="one"), Point(x=101, y=1, label="other")]
    _, one, other, _ = sides(scattered(*points, Point(x=10000, y=1, label="end")))
    assert one != other


@pytest.mark.parametrize(("ends", "clear"), [((1, 10), {(1, -1), (-1, 1)}), ((10, 1), {(1, 1), (-1, -1)})])
def test_the_name_of_a_line_stands_clear_of_it_whether_it_rises_or_falls(ends, clear):
    first, last = (Point(x=x, y=y) for x, y in zip((1, 100), ends, strict=True))
    middle = Point(x=10, y=math.sqrt(10), label="front")
    assert list(sides(scattered(first, middle, last, line=True)))[1] in clear


def test_a_chart_has_the_points_of_its_figure_with_all_that_hovering_tells():
    records = [timing(job(name, seq=seq), 1e-3 * place) for place, name in enumerate(HOSTILE, 1) for seq in LENGTHS]
    figure = only(lengths_of(records)["latency"])
    rows = chart(figure)["data"]["values"]
    points = [(place, each.variant, point) for place, each in enumerate(figure.series) for point in each.points]
    for row, (place, variant, point) in zip(rows, points, strict=True):
        assert (row["series"], row["variant"]) == (place, variant)
        assert (row["x"], row["y"]) == (point.x, pytest.approx(point.y, rel=1e-4))
        assert tuple(row["told"].split("\n")) == point.told


def test_a_chart_has_intervals_and_marks_at_the_lengths():
    figure = only(lengths_of(timings("flash", LENGTHS))["latency"])
    drawn = chart(figure)
    for row, point in zip(drawn["data"]["values"], figure.series[0].points, strict=True):
        assert (row["low"], row["high"]) == (pytest.approx(point.low, rel=1e-4), pytest.approx(point.high, rel=1e-4))
    assert drawn["layer"][0]["encoding"]["x"]["axis"]["values"] == list(LENGTHS)


@pytest.mark.parametrize(("log", "low"), [(True, 2), (False, -1)])
def test_an_interval_that_reaches_zero_ends_on_a_logarithmic_axis_at_the_lowest_value(log, low):
    figure = scattered(Point(x=1, y=2), Point(x=2, y=3, low=-1, high=9), log=log)
    assert chart(figure)["data"]["values"][1]["low"] == low


@pytest.mark.parametrize(("most", "marks"), [(4, [1, 2, 3, 4]), (90, [1, 2, 5, 10, 20, 50]), (9e5, [1, 10, 100])])
def test_a_logarithmic_axis_has_marks_that_fit_its_length(most, marks):
    drawn = chart(scattered(Point(x=1, y=1), Point(x=2, y=most)))
    values = drawn["layer"][0]["encoding"]["y"]["axis"]["values"]
    assert [value for value in values if 1 <= value <= most][: len(marks)] == marks


def test_runs_are_told_apart_by_dashes_where_there_are_several_and_variants_otherwise():
    figure = only(lengths_of(timings("flash", LENGTHS), timings("flash", LENGTHS))["latency"])
    one, other = _ranges(chart(figure, several=True), "strokeDash")
    assert one != other
    assert len(set(_ranges(chart(figure, several=True), "color"))) == 1
    assert len({*map(tuple, _ranges(chart(figure), "strokeDash"))}) == 1


def _ranges(drawn, channel):
    (line,) = [layer for layer in drawn["layer"][0]["layer"] if layer["mark"]["type"] == "line"]
    return line["encoding"][channel]["scale"]["range"]


def test_a_cell_twice_as_fast_and_one_half_as_fast_are_as_strong_in_different_colours():
    cells = [
        HeatCell(x=x, y="4", colour=colour, text=x, told=()) for x, colour in (("1", 1.0), ("2", -1.0), ("3", 0.0))
    ]
    sizes = {"columns": ("1", "2", "3"), "rows": ("4",), "cells": tuple(cells), "scale": "times as fast"}
    drawn = chart(Heatmap(name="h", title="h", facets={}, x="N", y="heads", **sizes))
    fast, slow, same = (row["colour"] for row in drawn["data"]["values"])
    assert (fast, slow) == (tint(FASTER, 0.6), tint(SLOWER, 0.6))
    assert same == PAGE


def test_every_point_of_every_scenario_can_be_drawn():
    for name, made in SCENARIOS.items():
        for section in by_length(report(made()[0])):
            for figure in section.figures:
                assert isinstance(figure, Figure)
                values = [value for each in figure.series for point in each.points for value in (point.x, point.y)]
                assert values, name
                assert all(map(math.isfinite, values))
                assert len(chart(figure)["data"]["values"]) == len(values) // 2


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
