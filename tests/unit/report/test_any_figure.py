"""Every renderer, on figures that hardly a machine gives: zero, infinite, huge, tiny, negative and missing ones."""

import csv
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from attnbench.analysis.compare import compare
from attnbench.analysis.rows import Row
from attnbench.contracts.record import Measurement
from attnbench.report.comparison import FORMATS as OF_COMPARISONS
from attnbench.report.csv import to_csv
from attnbench.report.figure import Figure
from attnbench.report.flat import to_json
from attnbench.report.formats import OF_BLOCKS
from attnbench.report.html import figures, page
from attnbench.report.images import images
from attnbench.report.reported import Report
from attnbench.report.summary import blocks
from attnbench.report.vega import chart
from helpers.reported import report, reported
from unit.report.planted import accuracy_job, failed, job, record

FIGURES = (0.0, 5e-324, 1e-9, 1.0, 12345.0, 1e149, 1.7e308, -1.0, -1e149, None)
KINDS = {
    "latency": "latency",
    "memory": "memory",
    "approximation_error": "agreement",
    "kept_mass": "agreement",
    "accuracy": "accuracy",
    "energy": "energy",
}
UNITS = {"latency": "ns", "memory": "bytes", "energy": "J"}
FACTS = {"flops": 10**6, "bytes_executed": 10**6, "bytes_least": 10**5}


def measured(variant, seq, metric, values):
    """Make the records of a case: a round for each latency, one for anything else."""
    kind = KINDS[metric]
    of = accuracy_job(variant, seq=seq) if kind == "accuracy" else job(variant, kind, seq=seq)
    if metric == "latency":  # whole nanoseconds
        rounds = [(None if value is None else int(min(max(value, 0), 1e18)),) for value in values]
    else:
        rounds = [values]
    return [
        record(
            replace(of, round=number),
            Measurement(metric=metric, unit=UNITS.get(metric, "1"), values=of_round),
            facts=FACTS | {"exact": variant == "v0"},
        )
        for number, of_round in enumerate(rounds, start=1)
    ]


@st.composite
def runs(draw):
    """Draw the records of a run: up to 14 variants at one length or three, any figures, some failures."""
    variants = [f"v{number}" for number in range(draw(st.sampled_from([1, 2, 3, 14])))]
    lengths = draw(st.sampled_from([(64,), (64, 128, 512)]))
    records = []
    for metric in draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3, unique_by=KINDS.get)):
        several = draw(
            st.lists(st.lists(st.sampled_from(FIGURES), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5)
        )
        cases = [(variant, seq) for variant in variants for seq in lengths]
        for place, case in enumerate(cases):
            records += measured(*case, metric, several[place % len(several)])
    broken = draw(st.sets(st.integers(0, len(records) - 1), max_size=3))
    return [failed(each.job, "crash", "SIGSEGV") if place in broken else each for place, each in enumerate(records)]


def check(made: Report) -> None:
    rows = list(made.rows)
    for render in OF_BLOCKS.values():
        render(blocks(rows))
    assert len(list(csv.reader(io.StringIO(to_csv(rows))))) == len(rows) + 1
    assert len(json.loads(to_json(rows))) == len(rows)
    compared = compare(rows, rows)
    for render in OF_COMPARISONS.values():
        render(compared)
    if rows:
        page(made)
    for figure in figures(made):
        json.dumps(chart(figure), allow_nan=False)
        if isinstance(figure, Figure):
            check_places(figure)


def check_places(figure: Figure) -> None:
    assert figure.series
    for series in figure.series:
        assert all(figure.x.holds(point.x) and figure.y.holds(point.y) for point in series.points)
    if figure.x.names:
        assert figure.x.names == tuple(series.name for series in figure.series)


GIVEN = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None}


@given(runs())
@settings(max_examples=12, derandomize=True, **GIVEN)
def test_any_figure_is_rendered_in_every_format(records):
    check(report(records))


@pytest.mark.exhaustive
@given(runs())
@settings(max_examples=400, **GIVEN)
def test_many_more_figures_are_rendered_in_every_format(records):
    check(report(records))


def planted(value: float | None, *, metric: str, variants: int) -> Report:
    """Make a report of one length: the value is that of one variant, the others have 1."""
    records = [
        each
        for number in range(variants)
        for name in {"latency", metric}
        for each in measured(f"v{number}", 512, name, (1000.0 if name == "latency" else 1.0,) * 3)
    ]
    run = reported(records)

    def as_planted(row: Row) -> Row:
        is_planted = row.metric == metric and row.case.variant == "v1"
        return replace(row, value=value, low=value, high=value, medians={}) if is_planted else row

    return Report([replace(run, rows=tuple(map(as_planted, run.rows)))])


@pytest.mark.parametrize("value", [0.0, float("inf"), -1.0, 1e300, 5e-324, None])
@pytest.mark.parametrize("metric", ["memory", "approximation_error", "latency"])
def test_a_figure_that_has_no_place_on_an_axis_is_named_and_the_others_are_drawn(metric, value):
    made = planted(value, metric=metric, variants=3)
    check(made)
    (drawn,) = [each for each in figures(made) if each.name.startswith(metric.replace("_", "-"))]
    has_place = value is not None and drawn.y.holds(value)
    assert [series.name for series in drawn.series] == (["v0", "v1", "v2"] if has_place else ["v0", "v2"])
    assert any("not drawn: v1: " in note for note in drawn.notes) is (value is not None and not has_place)


def test_thirteen_variants_at_one_length_are_drawn_side_by_side_the_fastest_first():
    records = [each for number in range(15) for each in measured(f"v{number}", 512, "latency", (1e6 - number,) * 3)]
    made = report(records)
    page(made)
    (drawn,) = [each for each in figures(made) if each.name == "latency-forward"]
    assert drawn.x.names == tuple(f"v{number}" for number in range(15))
    assert images(chart(drawn), ["svg"])["svg"].startswith(b"<svg")


def test_a_line_is_broken_at_a_length_at_which_the_variant_failed():
    records = [each for seq in (64, 256, 512) for each in measured("v0", seq, "latency", (1e6, 1e6, 1e6))]
    (drawn,) = figures(report([*records, failed(job("v0", seq=128), "crash", "SIGSEGV")]))[:1]
    assert [(point.x, point.stretch) for point in drawn.series[0].points] == [(64, 0), (256, 1), (512, 1)]
    assert images(chart(drawn), ["svg"])["svg"].count(b'class="mark-line') == 2
