"""Figures as SVG, PNG and PDF for papers, from the same data as the page's."""

import io
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.report.figure import Axis, Drawn, Figure, Heatmap, Series
from attnbench.report.styles import dash_of_run, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "png", "pdf")
_WIDTH, _HEIGHT = 6.4, 4.0  # inches
_DPI = 200
_LEGEND_ROWS = 12
_MOST_LEVEL, _LONGEST_LEVEL = 8, 8  # marks of an axis, and signs of one, that stand side by side
_FEW_DECADES = 100
_SIDES = {"top": (0, 1, "center", "bottom"), "bottom": (0, -1, "center", "top")}
_SIDES |= {"right": (1, 0, "left", "center"), "left": (-1, 0, "right", "center")}
_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and set in a paper's own type
    "svg.hashsalt": "attnbench",  # the same figure gives the same bytes
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name with a dollar sign is no formula
    "text.usetex": False,
}
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


def rendered(drawn: Drawn, formats: Collection[str], *, several: bool = False) -> dict[str, bytes]:
    """Draw a figure once, and give it in each format."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name may be in any script
        canvas = Canvas(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.add_subplot()
        axes.set_title(drawn.title)
        if isinstance(drawn, Heatmap):
            _heatmap(axes, drawn)
        else:
            _figure(axes, drawn, several=several)
        return {name: _saved(canvas, name) for name in formats}


def _saved(canvas: Any, form: str) -> bytes:
    target = io.BytesIO()
    canvas.savefig(target, format=form, dpi=_DPI, metadata=_METADATA[form])
    return target.getvalue()


def _figure(axes: "Axes", figure: Figure, *, several: bool) -> None:
    axes.set_xscale("log" if figure.x.log else "linear")
    axes.set_yscale("log" if figure.y.log else "linear")
    axes.set_xlabel(figure.x.title)
    axes.set_ylabel(figure.y.title)
    axes.grid(visible=True, which="major", linewidth=0.4, color="#d0d0d0")
    labelled = any(point.label for series in figure.series for point in series.points)
    if labelled:
        axes.margins(0.15)
    handles = [_line(axes, series, several=several) for series in figure.series]
    _labels(axes, figure.series)
    _marks(axes.xaxis, figure.x)
    _marks(axes.yaxis, figure.y)
    if figure.x.names or labelled:
        return
    columns = -(-len(handles) // _LEGEND_ROWS)
    names = [_shown(series.name) for series in figure.series]
    axes.figure.legend(handles, names, loc="outside right center", frameon=False, ncols=columns)


def _marks(which: Any, axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axis.marks:
        crowded = len(axis.marks) > _MOST_LEVEL or max(map(len, axis.ticks)) > _LONGEST_LEVEL
        which.set_ticks(list(axis.marks), list(axis.ticks))
        which.set_minor_formatter(NullFormatter())
        which.set_tick_params(rotation=45 if crowded else 0)
    elif axis.log:
        which.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        low, high = sorted(which.get_view_interval())
        if high < low * _FEW_DECADES:
            which.set_major_locator(LogLocator(subs=(1, 2, 5)))
            which.set_minor_formatter(NullFormatter())


def _line(axes: "Axes", series: Series, *, several: bool) -> Any:
    x, y = ([getattr(point, name) for point in series.points] for name in ("x", "y"))
    if series.variant is None:
        (line,) = axes.plot(x, y, color="#606060", linewidth=1.2, linestyle=_pattern(series.run), zorder=1)
        return line
    look = style(series.variant)
    dash = dash_of_run(series.run) if several else look.dash
    bars = [
        [point.y - point.low if point.low is not None else 0 for point in series.points],
        [point.high - point.y if point.high is not None else 0 for point in series.points],
    ]
    return axes.errorbar(
        x,
        y,
        yerr=bars if any(point.low is not None for point in series.points) else None,
        color=look.colour,
        marker=look.marker.matplotlib,
        markersize=5,
        linewidth=1.4,
        linestyle=(0, dash.lengths) if series.line and dash.lengths else "-" if series.line else "none",
        elinewidth=0.9,
        capsize=2,
        alpha=0.55 if any(point.faint for point in series.points) else None,
    )


def _pattern(run: int) -> Any:
    lengths = dash_of_run(run).lengths
    return (0, lengths) if lengths else "-"


def _labels(axes: "Axes", several: Sequence[Series]) -> None:
    for series in several:
        for point in series.points:
            if point.label:
                across, up, horizontal, vertical = _SIDES[point.side]
                axes.annotate(
                    point.label,
                    (point.x, point.y),
                    xytext=(6 * across, 6 * up),
                    textcoords="offset points",
                    ha=horizontal,
                    va=vertical,
                )


def _heatmap(axes: "Axes", heat: Heatmap) -> None:
    cells = {(cell.y, cell.x): cell for cell in heat.cells}
    rows = [[cells.get((row, column)) for column in heat.columns] for row in heat.rows]
    furthest = max((abs(cell.colour) for cell in heat.cells), default=1.0) or 1.0
    values = [[cell.colour if cell else float("nan") for cell in row] for row in rows]
    axes.imshow(values, cmap="PuOr", vmin=-furthest, vmax=furthest, aspect="auto", origin="lower")
    axes.set_xticks(range(len(heat.columns)), list(heat.columns))
    axes.set_yticks(range(len(heat.rows)), list(heat.rows))
    axes.set_xlabel(heat.x)
    axes.set_ylabel(heat.y)
    for place, text, dark in _texts(rows, furthest):
        axes.text(*place, text, ha="center", va="center", color="white" if dark else "black")


def _texts(rows: Sequence[Sequence[Any]], furthest: float) -> Iterator[tuple[tuple[int, int], str, bool]]:
    """Give each cell's text with its place, and whether the colour under it is a dark one."""
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            if cell is not None:
                yield (column, number), cell.text, abs(cell.colour) > 0.6 * furthest


def _shown(name: str) -> str:
    """Keep a name that begins with an underscore in the legend, from which matplotlib would leave it out."""
    return f" {name}" if name.startswith("_") else name
