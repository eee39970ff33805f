"""The roofline: operations executed for each byte moved, and their rate, under the machine's own rates."""

from collections.abc import Iterator, Sequence

from attnbench.analysis.curves import Curve, curve_groups
from attnbench.analysis.roofline import bytes_at_least
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Axes, canonical
from attnbench.contracts.record import Rates
from attnbench.contracts.units import Scale, digits
from attnbench.report.figure import Axis, Figure, Point, Section, Series, drawable, named, told
from attnbench.report.lengths import comparable_axes, facets_of
from attnbench.report.reported import Report
from attnbench.report.table import block_scale

_LEAD = (
    "Operations executed for each byte that memory must move at least, and their rate; the line is what this machine's "
    "own bandwidth and matrix rate allow."
)
_RATE, _SHARE = "flop_rate_executed", "roofline_share"

_Key = tuple[object, ...]
_Panel = tuple[Axes, list[tuple[int, Curve]]]


def by_intensity(report: Report) -> Iterator[Section]:
    """Yield the figures of rates against intensities, one for every setting; none where no work was counted."""
    shares = [{_key(row): row for row in run.rows if row.metric == _SHARE} for run in report.runs]
    panels: dict[str, _Panel] = {}
    for run, reported in enumerate(report.runs):
        for group in curve_groups(row for row in reported.rows if row.metric == _RATE and not row.is_harness):
            axes = comparable_axes(group.axes, report)
            panels.setdefault(canonical(axes), (axes, []))[1].extend((run, curve) for curve in group.curves)
    if not panels:
        return
    values = [row.value for _, curves in panels.values() for _, curve in curves for row in curve.rows.values()]
    scale = block_scale("FLOP/s", values)
    facets = facets_of([axes for axes, _ in panels.values()])
    drawn = (
        _figure(curves, own, shares, scale, report) for (_, curves), own in zip(panels.values(), facets, strict=True)
    )
    if figures := drawable(drawn):
        yield Section(key="roofline", title="Roofline", lead=_LEAD, figures=figures)


def _figure(
    curves: Sequence[tuple[int, Curve]],
    facets: dict[str, str],
    shares: Sequence[dict[_Key, Row]],
    scale: Scale,
    report: Report,
) -> Figure:
    series = [_series(curve, run, shares[run], scale, report) for run, curve in curves]
    series = [one for one in series if one.points]
    first = curves[0][1].first
    words = [f"{name}-{value}" if name != "pass" else "" for name, value in facets.items()]
    bounds = _bounds(series, first, scale, report) if series else []
    return Figure(
        name=named(["roofline", first.case.passes, *words]),
        title=f"Roofline, {first.case.passes}, {first.case.dtype}",
        facets=facets,
        x=Axis(title="operations per byte", log=True),
        y=Axis(title=f"rate ({scale.name})", log=True),
        series=(*bounds, *series),
        notes=() if bounds else ("the machine's own rates are not known for this dtype: no bound is drawn",),
    )


def _series(curve: Curve, run: int, shares: dict[_Key, Row], scale: Scale, report: Report) -> Series:
    name = report.name(curve.first, run)
    points = [
        _point(row, intensity, shares.get(_key(row)), scale, name=name)
        for row in curve.rows.values()
        if (intensity := _intensity(row)) is not None
    ]
    return Series(name=name, variant=report.order[curve.first.identity], run=run, points=tuple(points))


def _intensity(row: Row) -> float | None:
    """Return the operations for each byte that memory must move; None where one of them was not counted."""
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
    """Return the bound of each run's machine, over somewhat more than the points' intensities."""
    least = min(point.x for one in series for point in one.points) / 2
    most = max(point.x for one in series for point in one.points) * 2
    bounds = []
    for run in sorted({one.run for one in series}):
        rates = report.runs[run].rates
        if rates and rates.bytes_per_s and (matrix := rates.flops_per_s.get(row.case.dtype)):
            name = f"machine's bound ({report.run_names[run]})" if report.several else "the machine's bound"
            points = _bound(rates, matrix, (least, most), scale, name=name)
            bounds.append(Series(name=name, variant=None, run=run, points=tuple(points)))
    return bounds


def _bound(rates: Rates, matrix: float, span: tuple[float, float], scale: Scale, *, name: str) -> Iterator[Point]:
    assert rates.bytes_per_s
    ridge = matrix / rates.bytes_per_s
    intensities = sorted({span[0], *([ridge] if span[0] < ridge < span[1] else []), max(span[1], span[0])})
    lines = (name, f"{digits(matrix / 1e9)} GFLOP/s", f"{digits(rates.bytes_per_s / 1e9)} GB/s")
    for intensity in intensities:
        yield Point(x=intensity, y=min(matrix, intensity * rates.bytes_per_s) / scale.size, told=lines)


def _key(row: Row) -> _Key:
    return *row.identity, *row.case.axes(without=("shape_name",)).values()
