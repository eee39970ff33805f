"""The side of its point on which each label stands, so that labels cover each other, points and lines least."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from attnbench.report.figure import Figure

Side = tuple[int, int]  # -1 for left or below, 1 for right or above, 0 for neither
_Spot = tuple[float, float]
_Box = tuple[float, float, float, float]

# Shares of a figure's width and height, on a phone: of a letter, of a line of text, and from a point to its label.
_LETTER, _LINE, _GAP = 0.024, 0.063, 0.03
_STEPS = 40  # boxes that stand for a piece of a line
_SIDES: tuple[Side, ...] = ((0, 1), (0, -1), (1, 0), (-1, 0))
_CORNERS: tuple[Side, ...] = ((1, 1), (-1, -1), (1, -1), (-1, 1))


def sides(figure: Figure) -> Iterator[Side | None]:
    """Yield the side of each point's label, or None where it has none; the first that covers least is taken.

    Text is measured only when it is drawn, at a size that depends on the window, so its size is estimated as a share of
    the figure. The name of a line stands at a corner of its point, clear of the line at any slope.
    """
    spots = _spots(figure)
    lines = [spot for series, line in zip(figure.series, spots, strict=True) if series.line for spot in _along(line)]
    taken = [_around(spot) for line in spots for spot in line] + [_around(spot, _GAP / 2) for spot in lines]
    for series, line in zip(figure.series, spots, strict=True):
        choices = _CORNERS if series.line else _SIDES + _CORNERS
        for point, spot in zip(series.points, line, strict=True):
            if not point.label:
                yield None
                continue
            boxes = {side: _box(spot, side, len(point.label)) for side in choices}
            best = min(boxes, key=lambda side: sum(_overlap(boxes[side], other) for other in taken))
            taken.append(boxes[best])
            yield best


def _spots(figure: Figure) -> list[list[_Spot]]:
    """Return the positions of the points of each series, as shares of the figure's width and height."""
    points = [point for series in figure.series for point in series.points]
    across = _shares([math.log(point.x) if figure.x.log else point.x for point in points])
    up = _shares([math.log(point.y) if figure.y.log else point.y for point in points])
    spots = iter(zip(across, up, strict=True))
    return [[next(spots) for _ in series.points] for series in figure.series]


def _shares(values: Sequence[float]) -> list[float]:
    least, most = min(values), max(values)
    return [(value - least) / (most - least) if most > least else 0.5 for value in values]


def _along(line: Sequence[_Spot]) -> Iterator[_Spot]:
    for (x, y), (to_x, to_y) in pairwise(line):
        yield from ((x + (to_x - x) * step / _STEPS, y + (to_y - y) * step / _STEPS) for step in range(1, _STEPS))


def _around(spot: _Spot, reach: float = _GAP) -> _Box:
    return spot[0] - reach, spot[1] - reach, spot[0] + reach, spot[1] + reach


def _box(spot: _Spot, side: Side, letters: int) -> _Box:
    """Return the box of a label on a side of a point."""
    (x, y), (across, up), width = spot, side, letters * _LETTER
    left = x + across * _GAP + (across - 1) * width / 2
    bottom = y + up * (_GAP + _LINE / 2) - _LINE / 2
    return left, bottom, left + width, bottom + _LINE


def _overlap(one: _Box, other: _Box) -> float:
    """Return the area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
