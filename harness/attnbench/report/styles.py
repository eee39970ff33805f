"""How each variant is drawn, the same in every figure: a colour, a marker and a dash, so that no colour is needed.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), darker or lighter where a page would swallow
them; yellow is left out.
"""

from msgspec import Struct

# On a light page and on a dark one.
_COLOURS = (
    ("#0072b2", "#4fb3ee"),
    ("#d55e00", "#ff8a3d"),
    ("#009e73", "#2fd0a2"),
    ("#b5508b", "#e79ac6"),
    ("#a87400", "#f0b429"),
    ("#1a1a1a", "#f2f2f2"),
    ("#3d9bd6", "#a5dbff"),
)


class Marker(Struct, frozen=True):
    """One shape under its names: plotly's, matplotlib's, and a path around zero, 10 wide, for a legend."""

    plotly: str
    matplotlib: str
    path: str


class Dash(Struct, frozen=True):
    """One pattern of a line: plotly's name, and lengths of strokes and gaps in line widths; empty for a whole line."""

    plotly: str
    lengths: tuple[float, ...]


_MARKERS = (
    Marker("circle", "o", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"),
    Marker("square", "s", "M-4 -4h8v8h-8z"),
    Marker("diamond", "D", "M0 -5L5 0L0 5L-5 0z"),
    Marker("triangle-up", "^", "M0 -5L5 4L-5 4z"),
    Marker("triangle-down", "v", "M0 5L5 -4L-5 -4z"),
    Marker("x", "X", "M-5 -2.5L-2.5 -5L0 -2.5L2.5 -5L5 -2.5L2.5 0L5 2.5L2.5 5L0 2.5L-2.5 5L-5 2.5L-2.5 0z"),
    Marker("cross", "P", "M-2 -5h4v3h3v4h-3v3h-4v-3h-3v-4h3z"),
    Marker("star", "*", "M0 -5L1.3 -1.7L5 -1.6L2.1 0.7L3.1 4.2L0 2.1L-3.1 4.2L-2.1 0.7L-5 -1.6L-1.3 -1.7z"),
)
_DASHES = (
    Dash("solid", ()),
    Dash("dash", (4, 2)),
    Dash("dot", (1, 1.5)),
    Dash("dashdot", (4, 1.5, 1, 1.5)),
    Dash("longdash", (8, 2)),
)


class Style(Struct, frozen=True, kw_only=True):
    """How a variant is drawn; `dark` is its colour on a dark page."""

    colour: str
    dark: str
    marker: Marker
    dash: Dash


def style(variant: int) -> Style:
    """Give the style of the variant at a place in the report's order: no two of the first 280 are alike."""
    colour, dark = _COLOURS[variant % len(_COLOURS)]
    return Style(
        colour=colour, dark=dark, marker=_MARKERS[variant % len(_MARKERS)], dash=_DASHES[variant % len(_DASHES)]
    )


def dash_of_run(run: int) -> Dash:
    """Give the dash by which runs are told apart where a report has several: variants keep colour and marker."""
    return _DASHES[run % len(_DASHES)]
