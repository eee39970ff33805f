"""Attention matrices side by side, on one scale: exact attention's first, then each variant's."""

# T queries, S keys; P and Q are those that are left when blocks are shown as one point
import math
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from attnbench.contracts.text import plain
from attnbench.report.images import FORMATS, images
from attnbench.report.styles import FONT

__all__ = ["FORMATS", "Panel", "picture"]

Matrix = NDArray[np.float32]
Visible = NDArray[np.bool_]
Points: TypeAlias = "np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float32]]"
Json = dict[str, Any]

_POINTS = 256  # of a panel's side, at most
_SIDE, _BAR = 256, 14  # pixels: of a panel's side, of the bar's width
_ACROSS = 5
_WITHIN = 0.99  # share of all points that lie within the scale: a diagonal must not leave the rest dark
_DECADES = 4
_MASKED = (219, 219, 219)
_VIRIDIS = (
    *(0x440154, 0x482878, 0x3E4A89, 0x31688E, 0x26828E),
    *(0x1F9E89, 0x35B779, 0x6DCD59, 0xB4DE2C, 0xFDE725),
)
_CONFIG: Json = {
    "font": FONT,
    "view": {"stroke": None},
    "title": {"fontSize": 13, "fontWeight": "normal", "subtitleFontSize": 12, "subtitleColor": "#57606a"},
    "axis": {"titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 12, "tickSize": 3},
}


class Panel(Struct, frozen=True, kw_only=True, eq=False):
    """One matrix with the text above it."""

    title: str
    caption: str = ""
    matrix_TS: Matrix


class _Scale(Struct, frozen=True):
    """The weights that the ends of the colours stand for."""

    low: float
    high: float
    log: bool

    def shares(self, weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return where weights lie on the scale, from 0 to 1."""
        ends = np.array([self.low, self.high])
        clipped = np.clip(weights, *ends)
        if self.log:
            clipped, ends = np.log(clipped), np.log(ends)
        shares: NDArray[np.float64] = np.interp(clipped, ends, (0, 1))
        return shares


def picture(lines: Sequence[Sequence[Panel]], visible_TS: Visible, *, caption: str, form: str, log: bool) -> bytes:
    """Draw rows of panels as a picture. Colours show the magnitude of weights, without signs; masked points are grey.

    Where a matrix has more than 256 rows or columns each point is the largest of a block of weights, so that no weight
    is lost between points; the picture says so.
    """
    block = math.ceil(max(visible_TS.shape) / _POINTS)
    shown = [[_shown(panel.matrix_TS, visible_TS, block) for panel in line] for line in lines]
    scale = _scale([points for line in shown for points in line], log=log)
    panels = [
        [_panel(panel, points, scale) for panel, points in zip(line, points_of, strict=True)]
        for line, points_of in zip(lines, shown, strict=True)
    ]
    bar = _bar(scale, f"largest weight of {block} x {block}" if block > 1 else "weight")
    notes = [caption, "" if visible_TS.all() else "grey: masked", "signs not shown" if _is_signed(lines) else ""]
    title = {"text": plain("; ".join(filter(None, notes))), "orient": "bottom", "anchor": "middle", "offset": 16}
    grid = {"vconcat": [{"hconcat": line} for line in _broken(panels)]}
    drawn = images({"title": title, "config": _CONFIG, "hconcat": [grid, bar]}, [form])
    return drawn[form]


def _is_signed(lines: Sequence[Sequence[Panel]]) -> bool:
    """Return whether any weight is negative by more than rounding."""
    return any(panel.matrix_TS.min() < -1e-5 * panel.matrix_TS.max() for line in lines for panel in line)


def _shown(matrix_TS: Matrix, visible_TS: Visible, block: int) -> Points:
    """Return the points of a panel; a masked point with a weight is drawn, as it is a fault."""
    sizes_TS = np.abs(matrix_TS)
    seen_TS = visible_TS | (sizes_TS > sizes_TS.max() * np.finfo(np.float32).eps)
    return np.ma.masked_array(_pooled(sizes_TS, block), _pooled(seen_TS, block) == 0)


def _pooled(matrix_TS: NDArray[np.generic], block: int) -> NDArray[np.float32]:
    """Return the largest of each block; blocks at the end may be smaller."""
    queries, keys = (-(-size // block) * block for size in matrix_TS.shape)
    padded = np.zeros((queries, keys), dtype=np.float32)
    padded[: matrix_TS.shape[0], : matrix_TS.shape[1]] = matrix_TS
    pooled: NDArray[np.float32] = padded.reshape(queries // block, block, keys // block, block).max(axis=(1, 3))
    return pooled


def _scale(shown: Iterable[Points], *, log: bool) -> _Scale:
    """Return the scale that all panels share, up to the weight below which nearly all points lie."""
    points = np.concatenate([each.compressed() for each in shown])
    largest = float(np.quantile(points, _WITHIN)) or float(points.max()) or 1.0
    return _Scale(largest * 10.0**-_DECADES if log else 0.0, largest, log)


def _broken(lines: Sequence[list[Json]]) -> list[list[Json]]:
    """Return rows of panels; a single long row is wrapped."""
    (first, *others), across = lines, len(lines[0])
    if others or across <= _ACROSS:
        return list(lines)
    across = math.ceil(math.sqrt(across))
    return [first[start : start + across] for start in range(0, len(first), across)]


def _panel(panel: Panel, points_PQ: Points, scale: _Scale) -> Json:
    queries, keys = panel.matrix_TS.shape
    colours = _colours(scale.shares(points_PQ.data))
    colours[np.ma.getmaskarray(points_PQ)] = _MASKED
    title = {"text": plain(panel.title), "subtitle": plain(panel.caption)}
    return {
        "title": title,
        **_image(colours, _SIDE),
        "encoding": {"x": _edge(0, keys, "key"), "y": _edge(queries, 0, "query")},
    }


def _edge(start: int, end: int, title: str) -> Json:
    """Return an axis along a side of a panel, with a mark at each end."""
    axis = {"values": [start, end], "title": title, "titlePadding": -8}
    return _axis(start, end) | {"axis": axis}


def _bar(scale: _Scale, title: str) -> Json:
    """Return the bar of colours with its weights; those above the scale have the colour of its end."""
    colours = _colours(np.linspace(1, 0, _SIDE)[:, None])
    axis = {"orient": "right", "title": f"{title}; yellow: this or more", "tickCount": 5, "format": "~g"}
    y = _axis(scale.low, scale.high, log=scale.log) | {"axis": axis}
    x = _axis(0, 1) | {"axis": None}
    return {**_image(colours, _BAR), "encoding": {"x": x, "y": y}}


def _axis(start: float, end: float, *, log: bool = False) -> Json:
    kind = {"type": "log"} if log else {"type": "linear", "zero": False}
    middle = math.sqrt(start * end) if log else (start + end) / 2
    return {"datum": middle, "type": "quantitative", "scale": {**kind, "domain": [start, end], "nice": False}}


def _image(colours: NDArray[np.uint8], width: int) -> Json:
    """Return a view that a bitmap fills, each of its points with sharp edges."""
    size = {"width": width, "height": _SIDE}
    url = f"data:image/png;base64,{b64encode(_png(colours)).decode()}"
    mark = {"type": "image", "url": url, "aspect": False, "smooth": False}
    return {**size, "data": {"values": [{}]}, "mark": mark | size}


def _colours(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the colours of shares from 0 to 1, those of viridis."""
    stops = np.array([list(colour.to_bytes(3, "big")) for colour in _VIRIDIS])
    places = np.linspace(0, 1, len(stops))
    channels = [np.interp(shares, places, stops[:, channel]) for channel in range(3)]
    colours: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


def _png(colours: NDArray[np.uint8]) -> bytes:
    """Encode red, green and blue as PNG (RFC 2083): a header, the lines after a filter byte each, and an end."""
    height, width, _ = colours.shape
    lines = np.hstack([np.zeros((height, 1), np.uint8), colours.reshape(height, -1)]).tobytes()
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(lines),
        b"IEND": b"",
    }
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
