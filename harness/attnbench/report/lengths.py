"""Figures of what grows with the sequence length: a line for each variant, on logarithmic axes."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.courses import Course, fields
from attnbench.analysis.floor import is_harness
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes, canonical
from attnbench.contracts.text import plain, with_options
from attnbench.contracts.units import Scale
from attnbench.report.axes import TITLES, axis_text, task_of
from attnbench.report.figure import Axis, Drawn, Figure, Point, Section, Series, distinct, named, told
from attnbench.report.growth import differing
from attnbench.report.reported import Report
from attnbench.report.table import block_scale, title_of

_AGREEMENT = ("approximation_error", "numerical_error", "kept_mass")
_MOST_NOTES, _MOST_NAMED = 3, 6
_LEADS = {
    "latency": "Time of one call; lower is better. Bars are 95% intervals over rounds.",
    "memory": "Peak above the inputs during one call; lower is better.",
    "agreement": "How far the output is from exact attention's on the same inputs; an error of 1 is as large as the "
    "output itself.",
    "accuracy": "Scores of models trained with each variant; bars are 95% intervals over seeds.",
    "energy": "Joules that the whole board took for one call; lower is better.",
    "metric": "Metrics of installed plugins.",
}


class _Panel(Struct):
    """The courses that share a figure, each with its run."""

    metric: str
    task: str
    axes: Axes
    courses: list[tuple[int, Course]]


def by_length(report: Report) -> Iterator[Section]:
    """Draw each probe's metrics against the length, a figure for every setting; probes without a value have none."""
    for probe, lead in _LEADS.items():
        panels = [panel for metric in _metrics(probe, report.rows) for panel in _panels(report, metric)]
        if panels:
            title = "Further metrics" if probe == "metric" else probe.capitalize()
            yield Section(key=probe, title=title, lead=lead, figures=_figures(panels, report))


def facets_of(several: Sequence[Axes]) -> list[dict[str, str]]:
    """Say of each setting what tells it from the others, by the titles of the axes in which they differ."""
    labels = [name for name in ("passes", *differing(several)) if len({axes.get(name) for axes in several}) > 1]
    titles = {"passes": "pass"}
    return [{titles.get(name, TITLES[name]): axis_text(axes.get(name)) for name in labels} for axes in several]


def lengths_axis(rows: Iterable[Row]) -> Axis:
    """Give the axis of lengths, with a mark at each."""
    known = list(rows)
    title = "keys (N)" if known[0].case.passes == "decode" else "sequence length (N)"
    return Axis(title=title, log=True, marks=tuple(sorted({float(row.case.length) for row in known})))


def comparable_axes(axes: Axes, report: Report) -> Axes:
    """Leave out the device where it only tells that runs are of different machines."""
    if report.has_one_device_a_run:
        return {name: value for name, value in axes.items() if name != "device"}
    return axes


def _metrics(probe: str, rows: Sequence[Row]) -> list[str]:
    known = dict.fromkeys(row.metric for row in rows if row.probe.kind == probe and row.value is not None)
    if probe == "agreement":
        return [metric for metric in _AGREEMENT if metric in known]
    primary = {row.metric for row in rows if row.probe.kind == probe and row.primary}
    return [metric for metric in known if metric in primary]


def _panels(report: Report, metric: str) -> list[_Panel]:
    """Bring the courses of all runs together that may be compared."""
    panels: dict[tuple[str, str], _Panel] = {}
    for run, reported in enumerate(report.runs):
        rows = (_without_length(row) for row in reported.rows if row.metric == metric and not is_harness(row))
        for field in fields(rows, positive=_is_log(metric, reported.rows)):
            axes, task = comparable_axes(field.axes, report), field.courses[0].row.task
            empty = _Panel(metric, task, axes, [])
            panel = panels.setdefault((task, canonical(axes)), empty)
            panel.courses += [(run, course) for course in field.courses]
    return list(panels.values())


def _without_length(row: Row) -> Row:
    """Name a task without the length that it repeats, so that its lengths stand on one axis."""
    if not row.task:
        return row
    name, options = task_of(row)
    return replace(row, probe=replace(row.probe, task=plain(with_options(name, options, keys=options))))


def _is_log(metric: str, rows: Iterable[Row]) -> bool:
    about = next(row.about for row in rows if row.metric == metric)
    return not about.is_share and about.probe != "accuracy"


def _figures(panels: Sequence[_Panel], report: Report) -> tuple[Drawn, ...]:
    scales = _scales(panels)
    extra = {
        "figure": [title_of(panel.courses[0][1].row.about) for panel in panels],
        "task": [panel.task for panel in panels],
    }
    facets = [
        {name: values[place] for name, values in extra.items() if len(set(values)) > 1} | of_axes
        for place, of_axes in enumerate(facets_of([panel.axes for panel in panels]))
    ]
    drawn = (
        _figure(panel, told_apart, scales[panel.metric], report)
        for panel, told_apart in zip(panels, facets, strict=True)
    )
    return distinct([*drawn])


def _scales(panels: Iterable[_Panel]) -> dict[str, Scale]:
    """Choose one unit for all figures of a metric, so that one can be held beside another."""
    values: dict[str, list[Row]] = {}
    for panel in panels:
        values.setdefault(panel.metric, []).extend(row for _, course in panel.courses for row in course.rows.values())
    return {metric: block_scale(rows[0].unit, (row.value for row in rows)) for metric, rows in values.items()}


def _figure(panel: _Panel, facets: dict[str, str], scale: Scale, report: Report) -> Figure:
    rows = [row for _, course in panel.courses for row in course.rows.values()]
    first, title = rows[0], title_of(rows[0].about)
    pass_of = f", {first.case.passes}" if first.case.passes else ""
    unit = f" ({scale.name})" if scale.name else ""
    apart = [f"{name}-{value}" if name not in ("figure", "pass") else "" for name, value in facets.items()]
    log = _is_log(panel.metric, rows)
    figure = Figure(
        name=named([panel.metric, first.case.passes, *apart]),
        title=f"{title}{pass_of}",
        facets=facets,
        x=lengths_axis(rows),
        y=Axis(title=f"{panel.metric.replace('_', ' ')}{unit}", log=log),
        series=tuple(_series(course, run, scale, report) for run, course in panel.courses),
        notes=tuple(_lacking(panel, report)),
    )
    return _side_by_side(figure) if len(figure.x.marks) == 1 else figure


def _side_by_side(figure: Figure) -> Figure:
    """Put variants beside each other where there is one length, at which they would all stand above one another."""
    (length,) = figure.x.ticks
    names = tuple(series.name for series in figure.series)
    marks = tuple(float(place) for place in range(len(names)))
    series = (
        replace(each, points=tuple(replace(point, x=place) for point in each.points), line=False)
        for place, each in zip(marks, figure.series, strict=True)
    )
    axis = Axis(title=f"{figure.x.title.partition(' (')[0]} {length}", marks=marks, names=names)
    return replace(figure, x=axis, series=tuple(series))


def _series(course: Course, run: int, scale: Scale, report: Report) -> Series:
    name = report.name(course.row, run)
    return Series(
        name=name,
        variant=report.order[course.row.identity],
        run=run,
        points=tuple(_point(row, scale, name) for row in course.rows.values()),
    )


def _point(row: Row, scale: Scale, name: str) -> Point:
    assert row.value is not None
    return Point(
        x=float(row.case.length),
        y=row.value / scale.size,
        low=row.low / scale.size if row.low is not None else None,
        high=row.high / scale.size if row.high is not None else None,
        told=told(row, scale, name=name, place=f"N = {row.case.length}"),
    )


def _lacking(panel: _Panel, report: Report) -> Iterator[str]:
    """Say who lacks a length that another has, together who lack the same; the reasons are a table's business."""
    every = sorted({length for _, course in panel.courses for length in course.rows})
    lacking: dict[str, list[str]] = {}
    for run, course in panel.courses:
        if missing := [str(length) for length in every if length not in course.rows]:
            lacking.setdefault(", ".join(missing), []).append(report.name(course.row, run))
    for lengths, names in list(lacking.items())[:_MOST_NOTES]:
        yield f"no figure at {lengths}: {_listed(names)}"
    if len(lacking) > _MOST_NOTES:
        yield "others lack figures too: see the table of those"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"
