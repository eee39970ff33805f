"""Figures of metrics against the sequence length: a line for each variant, on logarithmic axes."""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.curves import Curve, curve_groups, stretches
from attnbench.analysis.groups import group_by
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes, canonical
from attnbench.contracts.metrics import TRAINED
from attnbench.contracts.text import plain, with_options
from attnbench.contracts.units import Scale
from attnbench.report.axes import TITLES, axis_text, task_of
from attnbench.report.figure import Axis, Drawn, Figure, Point, Section, Series, drawable, named, side_by_side, told
from attnbench.report.growth import differing
from attnbench.report.reported import Report
from attnbench.report.table import block_scale, title_of, with_pass, with_unit
from attnbench.report.text import few, grouped

_AGREEMENT = ("approximation_error", "numerical_error", "kept_mass")
_MOST_NOTES, _MOST_NAMED = 3, 6
_LEADS = {
    "latency": "Time of one call; lower is better. Bars are 95% intervals over rounds.",
    "memory": "Peak above the inputs during one call; lower is better.",
    "agreement": "How far the output is from exact attention's on the same inputs; an error of 1 is as large as the "
    "output itself.",
    "swap": "Scores of exact models with each variant in place of their attention; bars are 95% intervals over seeds.",
    "accuracy": "Scores of models trained with each variant; bars are 95% intervals over seeds.",
    "energy": "Joules that the whole board took for one call; lower is better.",
    "metric": "Metrics of installed plugins.",
}


class _Panel(Struct):
    """The curves of one figure, each with its run."""

    metric: str
    task: str
    axes: Axes
    curves: list[tuple[int, Curve]]

    @property
    def rows(self) -> list[Row]:
        """The rows of all curves."""
        return [row for _, curve in self.curves for row in curve.rows.values()]


def by_length(report: Report) -> Iterator[Section]:
    """Yield the figures of each probe's metrics against the length, one for every setting."""
    for probe, lead in _LEADS.items():
        panels = [panel for metric in _metrics(probe, report.rows) for panel in _panels(report, metric)]
        if figures := _figures(panels, report):
            title = "Further metrics" if probe == "metric" else probe.capitalize()
            yield Section(key=probe, title=title, lead=lead, figures=figures)


def facets_of(several: Sequence[Axes]) -> list[dict[str, str]]:
    """Return for each setting the axes in which settings differ, by their titles."""
    labels = [name for name in ("passes", *differing(several)) if len({axes.get(name) for axes in several}) > 1]
    titles = {"passes": "pass"}
    return [{titles.get(name, TITLES[name]): axis_text(axes.get(name)) for name in labels} for axes in several]


def lengths_axis(rows: Sequence[Row]) -> Axis:
    """Return the axis of lengths, with a mark at each."""
    title = "keys (N)" if rows[0].case.passes == "decode" else "sequence length (N)"
    return Axis(title=title, log=True, marks=tuple(sorted({float(row.case.length) for row in rows})))


def comparable_axes(axes: Axes, report: Report) -> Axes:
    """Return axes without the device where it varies between runs alone."""
    if report.has_one_device_a_run:
        return {name: value for name, value in axes.items() if name != "device"}
    return axes


def _metrics(probe: str, rows: Sequence[Row]) -> list[str]:
    measured = dict.fromkeys(row.metric for row in rows if row.probe.kind == probe and row.value is not None)
    if probe == "agreement":
        return [metric for metric in _AGREEMENT if metric in measured]
    primary = {row.metric for row in rows if row.probe.kind == probe and row.primary}
    return [metric for metric in measured if metric in primary]


def _panels(report: Report, metric: str) -> list[_Panel]:
    """Return the curves of all runs, comparable ones in one panel."""
    panels: dict[tuple[str, str], _Panel] = {}
    for run, reported in enumerate(report.runs):
        rows = (_without_length(row) for row in reported.rows if row.metric == metric and not row.is_harness)
        for group in curve_groups(rows, positive=False):
            axes, task = comparable_axes(group.axes, report), group.curves[0].first.task
            panel = panels.setdefault((task, canonical(axes)), _Panel(metric, task, axes, []))
            panel.curves += [(run, curve) for curve in group.curves]
    return list(panels.values())


def _without_length(row: Row) -> Row:
    """Return a row whose task is named without its length, so that all lengths of a task are on one axis."""
    if not row.task:
        return row
    name, options = task_of(row)
    return replace(row, probe=replace(row.probe, task=plain(with_options(name, options, keys=options))))


def _is_log(metric: str, rows: Iterable[Row]) -> bool:
    about = next(row.about for row in rows if row.metric == metric)
    return not about.is_share and about.probe not in TRAINED


def _figures(panels: Sequence[_Panel], report: Report) -> tuple[Drawn, ...]:
    scales = _scales(panels)
    extra = {"figure": [title_of(panel.rows[0].about) for panel in panels], "task": [panel.task for panel in panels]}
    facets = [
        {name: values[index] for name, values in extra.items() if len(set(values)) > 1} | of_axes
        for index, of_axes in enumerate(facets_of([panel.axes for panel in panels]))
    ]
    figures = [_figure(panel, own, scales[panel.metric], report) for panel, own in zip(panels, facets, strict=True)]
    return drawable(figures)


def _scales(panels: Iterable[_Panel]) -> dict[str, Scale]:
    """Return one unit for all figures of a metric, so that they can be compared."""
    by_metric = group_by((row for panel in panels for row in panel.rows), lambda row: row.metric)
    return {metric: block_scale(rows[0].unit, (row.value for row in rows)) for metric, rows in by_metric.items()}


def _figure(panel: _Panel, facets: dict[str, str], scale: Scale, report: Report) -> Figure:
    rows = panel.rows
    words = [f"{name}-{value}" if name not in ("figure", "pass") else "" for name, value in facets.items()]
    figure = Figure(
        name=named([panel.metric, rows[0].case.passes, *words]),
        title=with_pass(title_of(rows[0].about), rows[0]),
        facets=facets,
        x=lengths_axis(rows),
        y=Axis(title=with_unit(panel.metric.replace("_", " "), scale), log=_is_log(panel.metric, rows)),
        series=tuple(_series(curve, run, scale, report) for run, curve in panel.curves),
        notes=tuple(_lacking(panel, report)),
    )
    if len(figure.x.marks) > 1:
        return figure
    return side_by_side(figure, title=f"{figure.x.title.partition(' (')[0]} {figure.x.ticks[0]}")


def _series(curve: Curve, run: int, scale: Scale, report: Report) -> Series:
    name = report.name(curve.first, run)
    return Series(
        name=name,
        variant=report.order[curve.first.identity],
        run=run,
        points=tuple(
            replace(_point(curve.rows[length], scale, name), stretch=number)
            for number, stretch in enumerate(stretches(curve.rows, curve.failed))
            for length in stretch
        ),
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
    """Yield the lengths at which variants have no value, those that lack the same together."""
    every = sorted({length for _, curve in panel.curves for length in curve.rows})
    missing = [
        (", ".join(str(length) for length in every if length not in curve.rows), report.name(curve.first, run))
        for run, curve in panel.curves
    ]
    lacking = grouped(pair for pair in missing if pair[0])
    for lengths, names in list(lacking.items())[:_MOST_NOTES]:
        yield f"no figure at {lengths}: {few(names, _MOST_NAMED)}"
    if len(lacking) > _MOST_NOTES:
        yield "others lack figures too: see the table of those"
