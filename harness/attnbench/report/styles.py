"""The style of each variant, the same in every figure: a colour, a marker and a dash, so that no colour is needed.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), darker or lighter where they need more contrast
with the page; yellow is left out. A colour is a CSS pair, for a light page and for a dark one: the page changes its
theme without redrawing a chart, and files use the light one.
"""

import re

from msgspec import Struct

_COLOURS = (
    "light-dark(#0072b2, #4fb3ee)",
    "light-dark(#d55e00, #ff8a3d)",
    "light-dark(#009e73, #2fd0a2)",
    "light-dark(#b5508b, #e79ac6)",
    "light-dark(#a87400, #f0b429)",
    "light-dark(#1a1a1a, #f2f2f2)",
    "light-dark(#3d9bd6, #a5dbff)",
)
PAGE = "light-dark(#ffffff, #14171a)"
TEXT = "light-dark(#1b1f23, #e6e8ea)"
FAINT = "light-dark(#57606a, #a3abb3)"
GRID = "light-dark(#dde2e7, #30373d)"
# vl-convert brings Liberation Sans along, and the others are as wide: a chart is the same on every machine.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
SLOWER, FASTER = "light-dark(#d55e00, #ff8a3d)", "light-dark(#0072b2, #4fb3ee)"

_PAIR = re.compile(r"light-dark\((#\w+), #\w+\)")

# SVG paths around zero that reach from -1 to 1: a circle, a square, a diamond, two triangles, a cross, a plus, a star.
_MARKERS = (
    "M-.85 0a.85 .85 0 1 0 1.7 0a.85 .85 0 1 0 -1.7 0z",
    "M-.8 -.8h1.6v1.6h-1.6z",
    "M0 -1.1L1.1 0L0 1.1L-1.1 0z",
    "M0 -1L1 .8L-1 .8z",
    "M0 1L1 -.8L-1 -.8z",
    "M-1 -.5L-.5 -1L0 -.5L.5 -1L1 -.5L.5 0L1 .5L.5 1L0 .5L-.5 1L-1 .5L-.5 0z",
    "M-.4 -1h.8v.6h.6v.8h-.6v.6h-.8v-.6h-.6v-.8h.6z",
    "M0 -1.1L.3 -.4L1.1 -.35L.48 .15L.68 .95L0 .5L-.68 .95L-.48 .15L-1.1 -.35L-.3 -.4z",
)
# Lengths of strokes and gaps in pixels; a whole line has none.
_DASHES: tuple[tuple[float, ...], ...] = ((), (7, 3), (1.5, 2.5), (7, 3, 1.5, 3), (12, 3))


class Style(Struct, frozen=True, kw_only=True):
    """The style of a variant: a CSS colour, an SVG path, and lengths of strokes and gaps."""

    colour: str
    marker: str
    dash: tuple[float, ...]


def style(variant: int) -> Style:
    """Return the style of a variant by its index in the report's order; the first 280 all differ."""
    return Style(
        colour=_COLOURS[variant % len(_COLOURS)],
        marker=_MARKERS[variant % len(_MARKERS)],
        dash=_DASHES[variant % len(_DASHES)],
    )


def dash_of_run(run: int) -> tuple[float, ...]:
    """Return the dash of a run in a report of several, where variants keep colour and marker."""
    return _DASHES[run % len(_DASHES)]


def tint(colour: str, share: float) -> str:
    """Return a share of a colour mixed with the colour of the page."""
    mixed = (_mixed(ink, page, share) for ink, page in zip(_shades(colour), _shades(PAGE), strict=True))
    return "light-dark({}, {})".format(*mixed)


def _shades(colour: str) -> list[bytes]:
    """Return red, green and blue of a colour on a light page and on a dark one."""
    return [bytes.fromhex(shade) for shade in re.findall(r"#(\w+)", colour)]


def _mixed(one: bytes, other: bytes, share: float) -> str:
    return "#" + bytes(round(share * a + (1 - share) * b) for a, b in zip(one, other, strict=True)).hex()


def on_paper(svg: str) -> str:
    """Return an SVG in the colours of a light page: only browsers know colours that depend on the theme."""
    return _PAIR.sub(r"\1", svg)
