"""The layers of a chart of series, as Vega-Lite: intervals, lines, points, and labels that do not overlap."""

from collections.abc import Sequence
from typing import Any, Literal

from attnbench.report.figure import Figure, Series
from attnbench.report.styles import FAINT, PAGE, dash_of_run, style

Json = dict[str, Any]

LINE = 15  # pixels from one label to the next
PADDING = 14  # from the outermost points to the ends of an axis
_BEYOND = 12  # from the plot to the labels at its right
_BESIDE, _ABOVE = 9, 12  # from a point to its label


def bars(figure: Figure, axis: Literal["x", "y"]) -> Json:
    """Return the 95% intervals as bars along an axis."""
    return {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 1.2, "aria": False},
        "encoding": {
            axis: {"field": "low", "type": "quantitative"},
            f"{axis}2": {"field": "high"},
            "color": _colours(figure),
        },
    }


def lines(figure: Figure, *, several: bool) -> Json:
    """Return the lines that join the points of a series, apart where it has several stretches."""
    joined = [place for place, series in enumerate(figure.series) if series.line]
    dashes = _by_series([_dash(series, several=several) for series in figure.series])
    encoding = {"strokeDash": dashes, "color": _colours(figure)}
    if any(point.stretch for series in figure.series for point in series.points):
        encoding["detail"] = {"field": "stretch", "type": "nominal"}
    return {
        "transform": [{"filter": f"indexof({joined}, datum.series) >= 0"}],
        "mark": {"type": "line", "strokeWidth": 1.8, "aria": False},
        "encoding": encoding,
    }


def points(figure: Figure) -> Json:
    """Return the points, in the shape and colour of their variant; hollow ones are only outlined."""
    colours = _colours(figure)
    shapes = _by_series(["circle" if each.variant is None else style(each.variant).marker for each in figure.series])
    fill = {"condition": {"test": "datum.hollow", "value": PAGE}, **colours}
    return {
        "transform": [{"filter": "isValid(datum.variant)"}],
        "mark": {"type": "point", "size": 60, "strokeWidth": 1.2, "aria": False},
        "encoding": {"shape": shapes, "stroke": colours, "fill": fill},
    }


def targets() -> Json:
    """Return invisible points with the tooltips: larger, so that a pointer hits them, and read by screen readers."""
    return {
        "transform": [{"filter": "datum.told"}],
        "mark": {"type": "point", "filled": True, "size": 400, "color": "transparent"},
        "encoding": {"tooltip": {"field": "told"}, "description": {"field": "told"}},
    }


def labels_at_points() -> Json:
    """Return the labels of points, each on the side chosen for it."""
    mark = {
        "type": "text",
        "baseline": "middle",
        "align": {"expr": "['right', 'center', 'left'][datum.side[0] + 1]"},
        "dx": {"expr": f"{_BESIDE} * datum.side[0]"},
        "dy": {"expr": f"-{_ABOVE} * datum.side[1]"},
        "aria": False,
    }
    return {"transform": [{"filter": "datum.label"}], "mark": mark, "encoding": {"text": {"field": "label"}}}


def labels_at_ends(figure: Figure) -> Json:
    """Return the names of series in a column beside the plot, each with its mark and a rule to its line's end."""
    scale = {"domain": [0, 1], "reverse": True, "nice": False, "zero": False, "padding": PADDING}
    share = {"type": "quantitative", "scale": scale, "axis": None}
    x, y = {"value": {"expr": f"width + {_BEYOND}"}}, {"field": "place", **share}
    rule = {
        "x": {"field": "x", "type": "quantitative"},
        "x2": x,
        "y": {"field": "level", **share},
        "y2": {"field": "place"},
        "color": _colours(figure),
    }
    key = points(figure)
    text = {"type": "text", "align": "left", "baseline": "middle", "dx": _BESIDE, "aria": False}
    return {
        "transform": _apart(log=figure.y.log),
        "layer": [
            {"mark": {"type": "rule", "strokeWidth": 0.8, "strokeDash": [2, 2], "aria": False}, "encoding": rule},
            key | {"encoding": key["encoding"] | {"x": x, "y": y}},
            {"mark": text, "encoding": {"text": {"field": "end"}, "x": x, "y": y}},
        ],
    }


def _apart(*, log: bool) -> list[Json]:
    """Return the steps that move labels at the ends of lines apart.

    `level` is the height of a line's end and `place` that of its label, as shares from the top. One pass pushes labels
    that are too close down, another pushes them up. Both leave a line's height between neighbours, so their mean does
    too, and it is centred on the ends of the lines.
    """
    low, high, y = (
        f"log({value})" if log else f"({value})"
        for value in (
            "isValid(datum.low) ? datum.low : datum.y",
            "isValid(datum.high) ? datum.high : datum.y",
            "datum.y",
        )
    )
    line = f"({LINE} / (height - {2 * PADDING}))"
    return [
        {"calculate": low, "as": "least"},
        {"calculate": high, "as": "most"},
        {"joinaggregate": [_aggregate("min", "least"), _aggregate("max", "most")]},
        {"filter": "datum.end"},
        {"calculate": f"(datum.most - {y}) / (datum.most - datum.least || 1)", "as": "level"},
        {"window": [{"op": "row_number", "as": "rank"}], "sort": [{"field": "level"}]},
        {"joinaggregate": [{"op": "count", "as": "count"}]},
        {"calculate": f"datum.level - datum.rank * {line}", "as": "down"},
        {"calculate": "datum.down", "as": "up"},
        {"window": [_aggregate("max", "down")], "frame": [None, 0], "sort": [{"field": "rank"}]},
        {"window": [_aggregate("min", "up")], "frame": [0, None], "sort": [{"field": "rank"}]},
        {"calculate": f"min(datum.down, 1 - datum.count * {line}) + max(datum.up, -{line})", "as": "both"},
        {"calculate": f"datum.both / 2 + datum.rank * {line}", "as": "place"},
    ]


def _aggregate(operation: str, field: str) -> Json:
    return {"op": operation, "field": field, "as": field}


def _colours(figure: Figure) -> Json:
    return _by_series([FAINT if each.variant is None else style(each.variant).colour for each in figure.series])


def _dash(series: Series, *, several: bool) -> Sequence[float]:
    dash = dash_of_run(series.run) if several or series.variant is None else style(series.variant).dash
    return dash or (1, 0)


def _by_series(values: Sequence[Any]) -> Json:
    """Return an encoding that has a value for each series, in their order."""
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(range(len(values))), "range": list(values)},
        "legend": None,
    }
