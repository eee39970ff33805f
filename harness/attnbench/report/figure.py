"""Figures as data: what plotly and matplotlib draw alike, and what tests look at. All text is plain."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.rows import Row
from attnbench.contracts.case import Option
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits

Side = Literal["top", "bottom", "right", "left"]

_UNSAFE = re.compile(r"[^a-z0-9.]+")
_LONGEST_NAME = 100
# What a label takes of a figure's width and height, for a letter and for a line; and how far from its point it stands.
_LETTER, _LINE, _GAP = 0.017, 0.055, 0.02
_SIDES: dict[Side, tuple[float, float]] = {"top": (-0.5, 1), "bottom": (-0.5, -1), "right": (0, 0), "left": (-1, 0)}


class Axis(Struct, frozen=True, kw_only=True):
    """What an axis shows, and where its marks are if not anywhere, with names where numbers would say nothing."""

    title: str
    log: bool = False
    marks: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def ticks(self) -> tuple[str, ...]:
        """What stands at the marks."""
        return self.names or tuple(f"{mark:g}" for mark in self.marks)


class Point(Struct, frozen=True, kw_only=True):
    """A figure with its 95% interval, in the units of the axes; `told` are the lines that hovering shows."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    told: tuple[str, ...] = ()
    label: str = ""
    side: Side = "top"  # of the point, where its label stands
    faint: bool = False


class Series(Struct, frozen=True, kw_only=True):
    """Points of one variant (its place in the report's order) in one run; a bound or a front is of no variant."""

    name: str
    variant: int | None
    run: int
    points: tuple[Point, ...]
    line: bool = True


class Figure(Struct, frozen=True, kw_only=True):
    """Series over two axes. `facets` tell it from the others of its section; `name` is that of its files."""

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
    """Figures of one kind, of which a page shows one at a time; `lead` says how to read them."""

    key: str
    title: str
    lead: str
    figures: tuple[Drawn, ...]

    @property
    def facets(self) -> dict[str, list[str]]:
        """What the figures differ in, each with its values in their order."""
        found: dict[str, list[str]] = {}
        for figure in self.figures:
            for name, value in figure.facets.items():
                if value not in found.setdefault(name, []):
                    found[name].append(value)
        return {name: values for name, values in found.items() if len(values) > 1}


def named(parts: Iterable[str]) -> str:
    """Make a file's name from words, safe on every system: latency-forward-heads-8."""
    words = (_UNSAFE.sub("-", part.lower()).strip("-.") for part in parts)
    return "-".join(filter(None, words))[:_LONGEST_NAME]


def distinct(figures: Sequence[Drawn]) -> tuple[Drawn, ...]:
    """Put numbers behind names that are the same: what tells them apart may be what no file can be called."""
    seen: dict[str, int] = {}
    renamed: list[Drawn] = []
    for figure in figures:
        count = seen[figure.name] = seen.get(figure.name, 0) + 1
        renamed.append(figure if count == 1 else replace(figure, name=f"{figure.name}-{count}"))
    return tuple(renamed)


def place_labels(points: Sequence[Point], *, log_y: bool) -> list[Point]:
    """Choose for each label the side where it covers least of other points and of the labels before it.

    The axis of x is logarithmic. Sizes are guessed as shares of the figure, so that both renderers place them alike.
    """
    spots = list(zip(_shares([math.log(point.x) for point in points]), _shares(_heights(points, log_y)), strict=True))
    taken = [(x - _GAP, y - _GAP, x + _GAP, y + _GAP) for x, y in spots]
    placed = []
    for point, spot in zip(points, spots, strict=True):
        boxes = {side: _box(spot, side, len(point.label)) for side in _SIDES}
        best = min(boxes, key=lambda side: sum(_overlap(boxes[side], other) for other in taken))
        taken.append(boxes[best])
        placed.append(replace(point, side=best))
    return placed


def _heights(points: Sequence[Point], log_y: bool) -> list[float]:
    return [math.log(point.y) if log_y else point.y for point in points]


def _shares(values: Sequence[float]) -> list[float]:
    least, most = min(values), max(values)
    return [(value - least) / (most - least) if most > least else 0.5 for value in values]


_Box = tuple[float, float, float, float]


def _box(spot: tuple[float, float], side: Side, letters: int) -> _Box:
    across, up = _SIDES[side]
    width, sideways = letters * _LETTER, 0 if up else 1
    left = spot[0] + across * width + sideways * (_GAP if across == 0 else -_GAP)
    bottom = spot[1] - _LINE / 2 + up * (_GAP + _LINE / 2)
    return left, bottom, left + width, bottom + _LINE


def _overlap(one: _Box, other: _Box) -> float:
    """Give the area that two boxes share, and what lies outside of the figure where the other is none."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def told(row: Row, scale: Scale, *, name: str, place: str) -> tuple[str, ...]:
    """Tell in lines all that is worth knowing of a point: whose it is, its value and interval, what stands behind."""
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
