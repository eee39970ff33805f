"""Figures as plotly's JSON. Colours and dashes are the page's business, which knows whether it is dark."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from attnbench.report.figure import Axis, Drawn, Figure, Heatmap, Point, Series

Json = dict[str, Any]

_DIGITS = 5
_SIDES = {"top": "top center", "bottom": "bottom center", "right": "middle right", "left": "middle left"}
_MARGIN = 0.12  # of an axis, for labels beside points
_TEN = 10.0
_FEW_DECADES, _MOST_DECADES = 2, 8


def plotly(drawn: Drawn) -> Json:
    """Give a figure's traces and axes; `meta` names the variant and the run of a trace, by which the page styles it."""
    return _heatmap(drawn) if isinstance(drawn, Heatmap) else _figure(drawn)


def escaped(text: str) -> str:
    """Write text so that plotly, which knows some tags, reads none."""
    return html.escape(text, quote=False)


def short(value: float) -> float:
    """Round a number to the digits that a figure can show: a page holds many."""
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _figure(figure: Figure) -> Json:
    labelled = any(point.label for series in figure.series for point in series.points)
    points = [point for series in figure.series for point in series.points]
    return {
        "data": [_trace(series) for series in figure.series],
        "layout": {
            "xaxis": _axis(figure.x, [point.x for point in points], room=labelled),
            "yaxis": _axis(figure.y, [each for point in points for each in _reach(point)], room=labelled),
        },
    }


def _trace(series: Series) -> Json:
    points = series.points
    labels = any(point.label for point in points)
    trace: Json = {
        "type": "scatter",
        "name": escaped(series.name),
        "meta": [series.variant, series.run],
        "mode": "+".join([*(["lines"] if series.line else []), *_marks(series), *(["text"] if labels else [])]),
        "x": [short(point.x) for point in points],
        "y": [short(point.y) for point in points],
        "hovertext": [_lines(point.told) for point in points],
    }
    if any(point.low is not None for point in points):
        trace["error_y"] = _bars(points)
    if labels:
        trace["text"] = [escaped(point.label) for point in points]
        trace["textposition"] = [_SIDES[point.side] for point in points]
    if any(point.faint for point in points):
        trace["opacity"] = 0.55
    return trace


def _marks(series: Series) -> list[str]:
    return [] if series.variant is None else ["markers"]


def _bars(points: Sequence[Point]) -> Json:
    up = [short(point.high - point.y) if point.high is not None else 0 for point in points]
    down = [short(point.y - point.low) if point.low is not None else 0 for point in points]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down}


def _reach(point: Point) -> tuple[float, ...]:
    """Give the ends of a point's bar, or the point."""
    return (point.y,) if point.low is None or point.high is None else (point.low, point.high)


def _axis(axis: Axis, values: Sequence[float], *, room: bool) -> Json:
    found: Json = {"title": {"text": escaped(axis.title)}, "type": "log" if axis.log else "linear"}
    ticks = dict(zip(axis.marks, axis.ticks, strict=True)) if axis.marks else _decades(values) if axis.log else {}
    if ticks:
        found |= {"tickvals": [short(mark) for mark in ticks], "ticktext": [escaped(tick) for tick in ticks.values()]}
    if room:
        found["range"] = _range(values, log=axis.log)
    return found


def _decades(values: Iterable[float]) -> dict[float, str]:
    """Mark a logarithmic axis, a little beyond its values: at 1, 2 and 5 where it is short, else at powers of ten."""
    places = [math.log10(value) for value in values if value > 0]
    least, most = math.floor(min(places)), math.ceil(max(places))
    step = -(-(most - least) // _MOST_DECADES)
    leading = (1, 2, 5) if most - least <= _FEW_DECADES else (1,)
    marks = [lead * _TEN**power for power in range(least - 1, most + 2, max(step, 1)) for lead in leading]
    return {mark: f"{mark:g}" for mark in marks}


def _range(values: Iterable[float], *, log: bool) -> list[float]:
    """Leave room at the ends of an axis for the labels there."""
    places = [math.log10(value) if log else value for value in values]
    least, most = min(places), max(places)
    room = _MARGIN * ((most - least) or 1.0)
    return [short(least - room), short(most + room)]


def _heatmap(heat: Heatmap) -> Json:
    cells = {(cell.y, cell.x): cell for cell in heat.cells}
    rows = [[cells.get((row, column)) for column in heat.columns] for row in heat.rows]
    furthest = max((abs(cell.colour) for cell in heat.cells), default=1.0) or 1.0
    return {
        "data": [
            {
                "type": "heatmap",
                "x": list(heat.columns),
                "y": list(heat.rows),
                "z": [[short(cell.colour) if cell else None for cell in row] for row in rows],
                "text": [[escaped(cell.text) if cell else "" for cell in row] for row in rows],
                "hovertext": [[_lines(cell.told) if cell else "" for cell in row] for row in rows],
                "zmin": -short(furthest),
                "zmax": short(furthest),
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": escaped(heat.x)}, "type": "category"},
            "yaxis": {"title": {"text": escaped(heat.y)}, "type": "category"},
        },
    }


def _lines(told: Sequence[str]) -> str:
    return "<br>".join(map(escaped, told))
