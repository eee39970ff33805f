"""The roofline: what was executed for each byte moved, at what rate, under what the machine itself was seen to do."""

from collections.abc import Iterator, Sequence

from attnbench.analysis.courses import Course, fields
from attnbench.analysis.floor import is_harness
from attnbench.analysis.roofline import bytes_at_least
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes, canonical
from attnbench.contracts.record import Rates
from attnbench.contracts.units import Scale, digits
from attnbench.report.figure import Axis, Figure, Point, Section, Series, distinct, named, told
from attnbench.report.lengths import comparable_axes, facets_of
from attnbench.report.reported import Report
from attnbench.report.table import block_scale

_LEAD = (
    "Operations executed for each byte that memory must move at least, and their rate; the line is what this machine's "
    "own bandwidth and matrix rate allow."
)
_RATE, _SHARE = "flop_rate_executed", "roofline_share"

_Place = tuple[object, ...]
_Panel = tuple[Axes, list[tuple[int, Course]]]


def by_intensity(report: Report) -> Iterator[Section]:
    """Draw rates against intensities, a figure for every setting; nothing where no work was counted."""
    known = [{_place(row): row for row in run.rows if row.metric == _SHARE} for run in report.runs]
    panels: dict[str, _Panel] = {}
    for run, reported in enumerate(report.runs):
        rows = (row for row in reported.rows if row.metric == _RATE and not is_harness(row))
        for field in fields(rows):
            axes = comparable_axes(field.axes, report)
            panels.setdefault(canonical(axes), (axes, []))[1].extend((run, course) for course in field.courses)
    if not panels:
        return
    values = [row.value for _, courses in panels.values() for _, course in courses for row in course.rows.values()]
    scale = block_scale("FLOP/s", values)
    facets = facets_of([axes for axes, _ in panels.values()])
    drawn = (
        _figure(courses, told, known, scale, report) for (_, courses), told in zip(panels.values(), facets, strict=True)
    )
    figures = [figure for figure in drawn if figure.series]
    if figures:
        yield Section(key="roofline", title="Roofline", lead=_LEAD, figures=distinct(figures))


def _figure(
    courses: Sequence[tuple[int, Course]],
    facets: dict[str, str],
    known: Sequence[dict[_Place, Row]],
    scale: Scale,
    report: Report,
) -> Figure:
    series = [_series(course, run, known[run], scale, report) for run, course in courses]
    series = [each for each in series if each.points]
    first = courses[0][1].row
    apart = [f"{name}-{value}" if name != "pass" else "" for name, value in facets.items()]
    bounds = [] if not series else _bounds(series, first, scale, report)
    return Figure(
        name=named(["roofline", first.case.passes, *apart]),
        title=f"Roofline, {first.case.passes}, {first.case.dtype}",
        facets=facets,
        x=Axis(title="operations per byte", log=True),
        y=Axis(title=f"rate ({scale.name})", log=True),
        series=(*bounds, *series),
        notes=() if bounds else ("the machine's own rates are not known for this dtype: no bound is drawn",),
    )


def _series(course: Course, run: int, known: dict[_Place, Row], scale: Scale, report: Report) -> Series:
    name = report.name(course.row, run)
    points = [
        _point(row, intensity, known.get(_place(row)), scale, name=name)
        for row in course.rows.values()
        if (intensity := _intensity(row)) is not None
    ]
    return Series(name=name, variant=report.order[course.row.identity], run=run, points=tuple(points))


def _intensity(row: Row) -> float | None:
    """Give operations for each byte that memory must move; null where nobody has counted both."""
    flops, moved = row.facts.get("flops"), bytes_at_least(row)
    return flops / moved if isinstance(flops, int) and moved else None


def _point(row: Row, intensity: float, share: Row | None, scale: Scale, *, name: str) -> Point:
    assert row.value is not None
    reached = [f"{share.value:.1%} of the roofline"] if share and share.value is not None else []
    return Point(
        x=intensity,
        y=row.value / scale.size,
        low=row.low / scale.size if row.low is not None else None,
        high=row.high / scale.size if row.high is not None else None,
        told=(
            *told(row, scale, name=name, place=f"N = {row.case.length}"),
            f"{digits(intensity)} operations per byte",
            *reached,
        ),
    )


def _bounds(series: Sequence[Series], row: Row, scale: Scale, report: Report) -> list[Series]:
    """Draw what each run's machine allows, a little further than the points lie."""
    least = min(point.x for each in series for point in each.points) / 2
    most = max(point.x for each in series for point in each.points) * 2
    found = []
    for run in sorted({each.run for each in series}):
        rates = report.runs[run].rates
        if rates and rates.bytes_per_s and (matrix := rates.flops_per_s.get(row.case.dtype)):
            found.append(_bound(rates, matrix, (least, most), scale, name=_of(run, report), run=run))
    return found


def _bound(rates: Rates, matrix: float, span: tuple[float, float], scale: Scale, *, name: str, run: int) -> Series:
    assert rates.bytes_per_s
    ridge = matrix / rates.bytes_per_s
    places = sorted({span[0], *([ridge] if span[0] < ridge < span[1] else []), max(span[1], span[0])})
    points = (
        Point(x=each, y=min(matrix, each * rates.bytes_per_s) / scale.size, told=(name, *_seen(rates, matrix)))
        for each in places
    )
    return Series(name=name, variant=None, run=run, points=tuple(points))


def _seen(rates: Rates, matrix: float) -> tuple[str, ...]:
    return f"{digits(matrix / 1e9)} GFLOP/s", f"{digits((rates.bytes_per_s or 0) / 1e9)} GB/s"


def _of(run: int, report: Report) -> str:
    return f"machine's bound ({report.run_names[run]})" if report.several else "the machine's bound"


def _place(row: Row) -> _Place:
    return *row.identity, *row.case.axes(without=("shape_name",)).values()
