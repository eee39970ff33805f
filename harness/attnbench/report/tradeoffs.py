"""Trade-offs: latency against error, memory and scores at one length, with the Pareto front."""

from collections.abc import Iterator, Sequence

from attnbench.analysis.curves import ALONG
from attnbench.analysis.held import memory_metric
from attnbench.analysis.pareto import Front, ParetoPoint, fronts
from attnbench.analysis.regime import is_quality
from attnbench.analysis.rows import Row
from attnbench.contracts.metrics import metric_named
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits
from attnbench.report.axes import task_of
from attnbench.report.figure import Axis, Figure, Point, Section, Series, drawable, named, told
from attnbench.report.lengths import facets_of
from attnbench.report.reported import Report
from attnbench.report.table import block_scale, with_unit
from attnbench.report.text import grouped

_LEAD = (
    "Each variant once, at the longest length that was measured. The line joins those that no other beats in both (the "
    "Pareto front, by tests); hollow ones are beaten, or may be where rounds cannot tell. Qualities have lengths "
    "of their own: what saw more of the keys there than at the length of its cost is not compared."
)
_STANDINGS = {
    "front": "on the front",
    "unsure": "may be beaten: the rounds cannot tell",
    "dominated": "beaten in both",
    "exact here": "not compared",
    "other regime": "not compared",
}


def by_cost(report: Report) -> Iterator[Section]:
    """Yield the figures of each setting's variants at its longest length, one for each objective besides latency."""
    longest = [
        (run, front)
        for run, reported in enumerate(report.runs)
        for front in _fronts([row for row in reported.rows if not row.is_harness])
    ]
    if not longest:
        return
    of_axes = facets_of([front.axes for _, front in longest])
    figures = [
        _figure(front, run, _facets(front, run, report) | own, report)
        for (run, front), own in zip(longest, of_axes, strict=True)
    ]
    if drawn := drawable(figures):
        yield Section(key="tradeoff", title="Trade-off", lead=_LEAD, figures=drawn)


def _fronts(rows: Sequence[Row]) -> Iterator[Front]:
    """Yield the fronts at the longest length of each setting."""
    qualities = {row.metric for row in rows if is_quality(row) and row.primary and row.value is not None}
    longest: dict[object, int] = {}
    for row in rows:
        if row.metric == "latency" and row.value is not None:
            key = _setting(row)
            longest[key] = max(longest.get(key, 0), row.case.length)
    kept = [row for row in rows if is_quality(row) or row.case.length == longest.get(_setting(row))]
    for metric in (memory_metric(kept), *sorted(qualities)):
        yield from fronts(kept, ("latency", metric))


def _setting(row: Row) -> object:
    return row.run, *row.case.axes(without=(*ALONG, "shape_name")).values()


def _facets(front: Front, run: int, report: Report) -> dict[str, str]:
    of_run = {"run": report.run_names[run]} if report.several else {}
    return {"against": _name(front), **of_run}


def _name(front: Front) -> str:
    name = front.objectives[1]
    metric, exam = plain(metric_named(name).words), front.exams.get(name)
    if exam is None:
        return metric
    return f"{metric} on {plain(task_of(exam)[0] or f'{exam.case.inputs} inputs')} ({exam.case.length})"


def _figure(front: Front, run: int, facets: dict[str, str], report: Report) -> Figure:
    points = [point for point in front.points if point.standing]
    metric = front.objectives[1]
    x_scale, y_scale = (_scale(points, name) for name in front.objectives)
    is_share = metric in front.exams and points[0].rows[metric].higher_is_better
    words = [f"{name}-{value}" for name, value in facets.items() if name not in ("against", "pass")]
    first = points[0].rows["latency"]
    drawn = (_point(point, front, run, (x_scale, y_scale), report) for point in points)
    series = tuple(_series(point, each, run, report) for point, each in zip(points, drawn, strict=True))
    return Figure(
        name=named(["tradeoff", _name(front), first.case.passes, *words]),
        title=f"{_name(front).capitalize()} against latency, {first.case.passes}, N = {first.case.length}",
        facets=facets,
        x=Axis(title=f"latency ({x_scale.name})", log=True),
        y=Axis(title=with_unit(plain(metric.replace("_", " ")), y_scale), log=not is_share),
        series=(*_line(series, points, run), *series),
        notes=tuple(_unranked(front, report)),
    )


def _scale(points: Sequence[ParetoPoint], metric: str) -> Scale:
    rows = [point.rows[metric] for point in points]
    return block_scale(rows[0].unit, (row.value for row in rows))


def _series(point: ParetoPoint, drawn: Point, run: int, report: Report) -> Series:
    name = report.name(point.rows["latency"], run)
    return Series(name=name, variant=report.order[point.identity], run=run, points=(drawn,), line=False)


def _point(point: ParetoPoint, front: Front, run: int, scales: tuple[Scale, Scale], report: Report) -> Point:
    fast, other = (point.rows[name] for name in front.objectives)
    assert fast.value is not None
    assert other.value is not None
    name = report.name(fast, run)
    x_scale, y_scale = scales
    second = f"{plain(other.metric.replace('_', ' '))} {digits(other.value / y_scale.size)} {y_scale.name}".strip()
    because = point.why or ", ".join(report.names[identity] for identity in point.by)
    return Point(
        x=fast.value / x_scale.size,
        y=other.value / y_scale.size,
        told=(
            *told(fast, x_scale, name=name, place=f"N = {fast.case.length}"),
            second,
            f"{_STANDINGS[point.standing]}{f': {because}' if because else ''}",
        ),
        label=report.names[point.identity],
        hollow=point.standing != "front",
    )


def _line(series: Sequence[Series], points: Sequence[ParetoPoint], run: int) -> Iterator[Series]:
    """Join the points on the front, from the fastest on."""
    ends = [drawn.points[0] for drawn, point in zip(series, points, strict=True) if point.standing == "front"]
    if len(ends) > 1:
        joined = tuple(Point(x=end.x, y=end.y) for end in sorted(ends, key=lambda end: end.x))
        yield Series(name="Pareto front", variant=None, run=run, points=joined)


def _unranked(front: Front, report: Report) -> Iterator[str]:
    lacking = [report.names[point.identity] for point in front.points if not point.standing]
    if lacking:
        yield f"without a figure for both: {', '.join(lacking)}"
    refused = grouped((point.why, report.names[point.identity]) for point in front.points if point.why)
    for why, variants in refused.items():
        yield f"not compared: {', '.join(variants)}: {why}"
