"""Figures as Vega-Lite: one description of a chart, drawn by the page and into files.

https://vega.github.io/vega-lite/docs/spec.html
"""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise, repeat
from typing import Any

from msgspec.structs import replace

from attnbench.report.figure import Axis, Drawn, Figure, HeatCell, Heatmap, Point, Series
from attnbench.report.labels import Side, sides
from attnbench.report.marks import LINE, PADDING, bars, labels_at_ends, labels_at_points, lines, points, targets
from attnbench.report.styles import FAINT, FASTER, FONT, GRID, PAGE, SLOWER, TEXT, tint

Json = dict[str, Any]

_WIDTH, _HEIGHT = 460, 300  # pixels inside the axes, in files; a page chooses its own
_ROW, _CELL = 24, 32  # heights of a row of points and of a cell
_LABEL_PADDING = 36, 24  # as PADDING, where points have labels
_DIGITS = 5
_FEW_DECADES, _MOST_DECADES = 2.5, 8
_STRONGEST = 0.6  # share of a cell's colour, so that text is read on it

# 0.001 and 1e-4, 100000 and 1e6: an axis of errors has both kinds.
_NUMBER = (
    "datum.value && (abs(datum.value) < 1e-3 || abs(datum.value) >= 1e6)"
    " ? replace(format(datum.value, '~e'), '+', '') : format(datum.value, '~r')"
)
_CONFIG: Json = {
    "font": FONT,
    "background": PAGE,
    "view": {"stroke": None},
    "title": {"color": TEXT, "fontSize": 14, "fontWeight": "normal", "anchor": "start", "offset": 10},
    "point": {"opacity": 1},
    "text": {"color": TEXT, "fontSize": 12},
    "axis": {
        "domainColor": FAINT,
        "gridColor": GRID,
        "labelColor": TEXT,
        "labelFontSize": 12,
        "tickColor": FAINT,
        "titleColor": TEXT,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
}


def chart(drawn: Drawn, *, several: bool = False) -> Json:
    """Return the Vega-Lite description of a figure; dashes distinguish runs if there are `several`, else variants."""
    body = _heatmap(drawn) if isinstance(drawn, Heatmap) else _figure(drawn, several=several)
    frame = {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "title": drawn.title, "width": _WIDTH}
    return frame | body | {"config": _CONFIG}


# ---- figures


def _figure(figure: Figure, *, several: bool) -> Json:
    """Return a chart of series; the page hides variants through the parameter `hidden`."""
    is_labelled = any(point.label for series in figure.series for point in series.points)
    if is_labelled:
        figure = replace(figure, series=tuple(_with_name(series, figure) for series in figure.series))
    params = {"hidden": [], "names": figure.x.names}
    body: Json = {
        "description": f"{figure.title}: {figure.y.title} by {figure.x.title}",
        "data": {"values": list(_rows(figure, sides(figure) if is_labelled else repeat(None)))},
        "params": [{"name": name, "value": value} for name, value in params.items()],
        "transform": [{"filter": "indexof(hidden, datum.variant) < 0"}],
    }
    if figure.x.names:
        return body | _rows_of_points(figure)
    x, y = _axes(figure, _LABEL_PADDING if is_labelled else (PADDING, PADDING))
    layers = [bars(figure, "y"), lines(figure, several=several), points(figure), targets()]
    body["height"] = max(_HEIGHT, LINE * len(figure.series) + 2 * PADDING)
    body["layer"] = [{"encoding": {"x": x, "y": y}, "layer": layers}]
    if is_labelled:
        layers.append(labels_at_points())
        return body
    # Labels have their own scale, from 0 at the highest value to 1 at the lowest.
    body["layer"].append(labels_at_ends(figure))
    return body | {"resolve": {"scale": {"y": "independent"}}}


def _rows_of_points(figure: Figure) -> Json:
    """Return a chart with a row for each series: at a single length, a line chart would be a column of points."""
    _, value = _axes(figure, (PADDING, PADDING))
    axis = {"labelExpr": "names[datum.value]", "labelLimit": 300, "grid": True, "domain": False, "ticks": False}
    return {
        "height": _ROW * len(figure.series),
        "usermeta": {"row": _ROW},
        "encoding": {
            "x": value | {"title": f"{figure.y.title}, {figure.x.title}"},
            "y": {"field": "series", "type": "ordinal", "title": None, "axis": axis},
        },
        "layer": [bars(figure, "x"), points(figure), targets()],
    }


# ---- data


def _with_name(series: Series, figure: Figure) -> Series:
    """Return a series; if it is a line of no variant, such as a front, with its name halfway along its widest piece."""
    if series.variant is not None or len(series.points) < 2:
        return series
    pieces = list(pairwise(series.points))
    widths = [end.x / start.x if figure.x.log else end.x - start.x for start, end in pieces]
    before = widths.index(max(widths))
    start, end = pieces[before]
    x = _middle(figure.x, start.x, end.x)
    middle = Point(x=x, y=_middle(figure.y, start.y, end.y), label=series.name)
    return replace(series, points=(*series.points[: before + 1], middle, *series.points[before + 1 :]))


def _middle(axis: Axis, one: float, other: float) -> float:
    return math.sqrt(one * other) if axis.log else (one + other) / 2


def _rows(figure: Figure, side: Iterator[Side | None]) -> Iterator[Json]:
    """Yield the data of each point, with its label and the label's side; the last of a series has its name."""
    floor = min(value for series in figure.series for point in series.points for value in _positive(point))
    for place, series in enumerate(figure.series):
        for point in series.points:
            row: Json = {"series": place, "variant": series.variant, "x": _short(point.x), "y": _short(point.y)}
            if point.low is not None and point.high is not None:
                # An interval that reaches zero ends, on a logarithmic axis, at the lowest value there is.
                low = max(point.low, floor) if figure.y.log else point.low
                row |= {"low": _short(low), "high": _short(point.high)}
            if point.told:
                row["told"] = "\n".join(point.told)
            if beside := next(side):
                row |= {"label": point.label, "side": beside}
            if point.stretch:
                row["stretch"] = point.stretch
            if point.hollow:
                row["hollow"] = True
            if point is series.points[-1]:
                row["end"] = series.name
            yield row


def _positive(point: Point) -> Iterator[float]:
    yield point.y
    if point.low is not None and point.low > 0:
        yield point.low


def _short(value: float) -> float:
    """Round a number to the digits that a chart can show, as a page holds many."""
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


# ---- axes


def _axes(figure: Figure, padding: tuple[float, float]) -> tuple[Json, Json]:
    """Return the encodings of x and y, with padding in pixels at their ends."""
    every = [point for series in figure.series for point in series.points]
    reached = (value for point in every for value in (*_positive(point), point.high or point.y))
    x = _axis(figure.x, (point.x for point in every), padding[0])
    y = _axis(figure.y, reached, padding[1])
    return {"field": "x", "sort": None, **x}, {"field": "y", **y}


def _axis(axis: Axis, values: Iterable[float], padding: float) -> Json:
    marks = axis.marks or (_decades(values) if axis.log else ())
    scale = {"type": "log"} if axis.log else {"type": "linear", "zero": False}
    return {
        "type": "quantitative",
        "title": axis.title,
        "scale": {**scale, "nice": False, "padding": padding},
        "axis": {"labelExpr": _NUMBER, **({"values": list(map(_short, marks))} if marks else {"tickCount": 6})},
    }


def _decades(values: Iterable[float]) -> list[float]:
    """Return marks for a logarithmic axis, the denser the shorter it is: all digits, 1, 2 and 5, or powers of ten."""
    powers = [math.log10(value) for value in values if value > 0]
    least, most = math.floor(min(powers)), math.ceil(max(powers))
    step = -(-(most - least) // _MOST_DECADES) or 1
    span = max(powers) - min(powers)
    leading = range(1, 10) if span <= 1 else (1, 2, 5) if span <= _FEW_DECADES else (1,)
    return [lead * 10.0**power for power in range(least - 1, most + 2, step) for lead in leading]


# ---- heatmaps


def _heatmap(heat: Heatmap) -> Json:
    """Return coloured cells with their text."""
    furthest = max((abs(cell.colour) for cell in heat.cells), default=1.0) or 1.0
    axis = {"labelAngle": 0, "domain": False, "ticks": False}
    rect = {
        "color": {"field": "colour", "type": "nominal", "scale": None, "legend": None},
        "tooltip": {"field": "told"},
        "description": {"field": "told"},
    }
    return {
        "description": f"{heat.title}: {heat.scale} by {heat.x} and {heat.y}",
        "data": {"values": [_cell(cell, furthest) for cell in heat.cells]},
        "height": _CELL * len(heat.rows),
        "encoding": {
            "x": {"field": "x", "type": "ordinal", "title": heat.x, "sort": heat.columns, "axis": axis},
            "y": {"field": "y", "type": "ordinal", "title": heat.y, "sort": heat.rows[::-1], "axis": axis},
        },
        "layer": [
            {"mark": {"type": "rect", "stroke": PAGE, "strokeWidth": 2}, "encoding": rect},
            {"mark": {"type": "text", "aria": False}, "encoding": {"text": {"field": "text"}}},
        ],
    }


def _cell(cell: HeatCell, furthest: float) -> Json:
    colour = tint(FASTER if cell.colour > 0 else SLOWER, _STRONGEST * abs(cell.colour) / furthest)
    return {"x": cell.x, "y": cell.y, "colour": colour, "text": cell.text, "told": "\n".join(cell.told)}
