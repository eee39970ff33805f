"""Figures as data: what a chart shows, without how it is drawn. All text is plain."""

import math
import re
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.rows import Row
from attnbench.contracts.case import Option
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits

_UNSAFE = re.compile(r"[^a-z0-9.]+")
_LONGEST_NAME = 100


class Axis(Struct, frozen=True, kw_only=True):
    """An axis; `marks` are its ticks where they are not left to the chart, `names` their texts in place of numbers."""

    title: str
    log: bool = False
    marks: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def ticks(self) -> tuple[str, ...]:
        """The texts at the marks."""
        return self.names or tuple(f"{mark:.12g}" for mark in self.marks)

    def holds(self, value: float) -> bool:
        """Return whether a value has a place on the axis."""
        return math.isfinite(value) and (value > 0 or not self.log)


class Point(Struct, frozen=True, kw_only=True):
    """A value with its 95% interval, in the units of the axes.

    `told` are the lines of its tooltip; `hollow` marks what is beaten. A line joins the points of one `stretch`.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    told: tuple[str, ...] = ()
    label: str = ""
    hollow: bool = False
    stretch: int = 0


class Series(Struct, frozen=True, kw_only=True):
    """The points of one variant, by its index in the report's order, in one run; a bound or a front has no variant."""

    name: str
    variant: int | None
    run: int
    points: tuple[Point, ...]
    line: bool = True


class Figure(Struct, frozen=True, kw_only=True):
    """Series over two axes; `facets` distinguish it from the others of its section, `name` is that of its files."""

    name: str
    title: str
    facets: dict[str, str]
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    notes: tuple[str, ...] = ()


class HeatCell(Struct, frozen=True, kw_only=True):
    """A coloured cell: `colour` is a logarithm to base 2, zero in the middle of the scale."""

    x: str
    y: str
    colour: float
    text: str
    told: tuple[str, ...]


class Heatmap(Struct, frozen=True, kw_only=True):
    """Cells over named rows and columns."""

    name: str
    title: str
    facets: dict[str, str]
    x: str
    y: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[HeatCell, ...]
    scale: str
    notes: tuple[str, ...] = ()


Drawn = Figure | Heatmap


class Section(Struct, frozen=True, kw_only=True):
    """Figures of one kind, of which a page shows one at a time; `lead` explains how to read them."""

    key: str
    title: str
    lead: str
    figures: tuple[Drawn, ...]

    @property
    def facets(self) -> dict[str, list[str]]:
        """The facets in which the figures differ, each with its values in their order."""
        facets: dict[str, list[str]] = {}
        for figure in self.figures:
            for name, value in figure.facets.items():
                if value not in facets.setdefault(name, []):
                    facets[name].append(value)
        return {name: values for name, values in facets.items() if len(values) > 1}


def named(parts: Iterable[str]) -> str:
    """Return a file name made of words, safe on every system: latency-forward-heads-8."""
    words = (_UNSAFE.sub("-", part.lower()).strip("-.") for part in parts)
    return "-".join(filter(None, words))[:_LONGEST_NAME]


def drawable(figures: Iterable[Drawn]) -> tuple[Drawn, ...]:
    """Return figures that have something to draw: without values that have no place on their axes, names distinct.

    A logarithmic axis has no place for zero and below, no axis one for infinity; a note names what is left out.
    """
    placed = (figure if isinstance(figure, Heatmap) else _placed(figure) for figure in figures)
    return distinct([figure for figure in placed if isinstance(figure, Heatmap) or figure.series])


def distinct(figures: Sequence[Drawn]) -> tuple[Drawn, ...]:
    """Return figures with distinct names: equal ones are numbered, as names that differ may be alike as file names."""
    seen: dict[str, int] = {}
    renamed: list[Drawn] = []
    for figure in figures:
        count = seen[figure.name] = seen.get(figure.name, 0) + 1
        renamed.append(figure if count == 1 else replace(figure, name=f"{figure.name}-{count}"))
    return tuple(renamed)


def _placed(figure: Figure) -> Figure:
    """Return a figure without the points that have no place on its axes."""
    series, lacking = [], []
    for one in figure.series:
        points = tuple(_bounded(point) for point in one.points if figure.x.holds(point.x) and figure.y.holds(point.y))
        if points:
            series.append(replace(one, points=points))
        if len(points) < len(one.points):
            lacking.append(one.name)
    if not lacking:
        return replace(figure, series=tuple(series))
    why = "zero, less, or infinite, which a logarithmic axis has no place for"
    kept = replace(figure, series=tuple(series), notes=(*figure.notes, f"not drawn: {', '.join(lacking)}: {why}"))
    return side_by_side(kept, title=figure.x.title) if figure.x.names else kept


def side_by_side(figure: Figure, *, title: str) -> Figure:
    """Return a figure with a place of its own for each series, by name, instead of all above one another."""
    names = tuple(series.name for series in figure.series)
    marks = tuple(float(index) for index in range(len(names)))
    series = (
        replace(one, points=tuple(replace(point, x=mark) for point in one.points), line=False)
        for mark, one in zip(marks, figure.series, strict=True)
    )
    return replace(figure, x=Axis(title=title, marks=marks, names=names), series=tuple(series))


def _bounded(point: Point) -> Point:
    """Return a point without an interval that has no end."""
    ends = (point.low, point.high)
    return point if all(end is None or math.isfinite(end) for end in ends) else replace(point, low=None, high=None)


def told(row: Row, scale: Scale, *, name: str, place: str) -> tuple[str, ...]:
    """Return the lines of a tooltip: variant, value and interval, counts and flags, kernel."""
    value = f"{_scaled(row.value, scale)} {scale.name}".strip()
    interval = f" [{_scaled(row.low, scale)}, {_scaled(row.high, scale)}]" if row.low is not None else ""
    seeds = row.probe.metric.replicates == "seeds"
    counted = row.samples if seeds else row.rounds
    counts = f"{counted} {'seed' if seeds else 'round'}{'s' * (counted != 1)}"
    behind = ", ".join(filter(None, (counts, row.noise, *map(_flag, row.flags))))
    kernel = row.backend if row.backend != row.case.variant else ""
    return tuple(filter(None, (f"{name}, {place}", f"{value}{interval}", behind, plain(kernel))))


def _scaled(value: Option, scale: Scale) -> str:
    return digits(value / scale.size) if isinstance(value, int | float) else ""


def _flag(flag: str) -> str:
    return plain(flag.replace("_", " "))
