"""Attention matrices side by side, on one scale: exact attention's first, then each variant's."""

# T queries, S keys; P and Q are those that are left when blocks are shown as one point
import io
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from msgspec import Struct
from numpy.typing import NDArray

from attnbench.contracts.text import plain

Matrix = NDArray[np.float32]
Visible = NDArray[np.bool_]
Points: TypeAlias = "np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float32]]"

FORMATS = ("png", "svg", "pdf")
_POINTS = 256  # of a panel's side, at most
_ACROSS = 5
_SIDE_IN, _BESIDE_IN, _ABOVE_IN = 2.2, 0.35, 0.65  # of a panel, of its labels, of its title
_WITHIN = 0.99  # share of all points that lie within the scale: a diagonal must not leave the rest dark
_DECADES = 4
_LEAST_IN = 5.0  # the width that the words below need
_HIDDEN = "0.86"
_RESOLUTION = 150


class Panel(Struct, frozen=True, kw_only=True, eq=False):
    """One matrix with what stands above it."""

    title: str
    caption: str = ""
    matrix_TS: Matrix


def picture(lines: Sequence[Sequence[Panel]], visible_TS: Visible, *, caption: str, form: str, log: bool) -> bytes:
    """Draw lines of panels as a picture of a format. Colours are sizes of weights, without signs; grey is masked.

    Where a matrix has more than 256 rows or columns each point is the largest of a block of weights, so that no weight
    is lost between points; the picture says so.
    """
    block = math.ceil(max(visible_TS.shape) / _POINTS)
    shown = [[_shown(panel.matrix_TS, visible_TS, block) for panel in line] for line in lines]
    norm = _norm([points for line in shown for points in line], log=log)
    figure = Figure(layout="constrained")
    places = _places(figure, [len(line) for line in lines])
    for line, points, axes in zip(lines, shown, places, strict=True):
        for each in zip(axes, line, points, strict=True):
            _draw(*each, norm=norm)
    everywhere = [axes for line in places for axes in line]
    bar = figure.colorbar(everywhere[0].images[0], ax=everywhere, extend="max", fraction=0.04, shrink=0.8, pad=0.02)
    bar.ax.tick_params(labelsize="x-small")
    bar.set_label(f"largest weight of {block} x {block}" if block > 1 else "weight", fontsize="small")
    notes = [caption, "" if visible_TS.all() else "grey: masked", "signs not shown" if _is_signed(lines) else ""]
    figure.supxlabel(plain("; ".join(filter(None, notes))), fontsize="small", color="0.3", parse_math=False)
    target = io.BytesIO()
    figure.savefig(target, format=form, dpi=_RESOLUTION)
    return target.getvalue()


def _is_signed(lines: Sequence[Sequence[Panel]]) -> bool:
    """Tell whether there are weights below zero, rounding apart."""
    return any(panel.matrix_TS.min() < -1e-5 * panel.matrix_TS.max() for line in lines for panel in line)


def _shown(matrix_TS: Matrix, visible_TS: Visible, block: int) -> Points:
    """Give the points of a panel; a masked one that bears weight all the same is shown."""
    sizes_TS = np.abs(matrix_TS)
    seen_TS = visible_TS | (sizes_TS > sizes_TS.max() * np.finfo(np.float32).eps)
    return np.ma.masked_array(_pooled(sizes_TS, block), _pooled(seen_TS, block) == 0)


def _pooled(matrix_TS: NDArray[np.generic], block: int) -> NDArray[np.float32]:
    """Give the largest of each block; blocks at the end may be smaller."""
    queries, keys = (-(-size // block) * block for size in matrix_TS.shape)
    padded = np.zeros((queries, keys), dtype=np.float32)
    padded[: matrix_TS.shape[0], : matrix_TS.shape[1]] = matrix_TS
    pooled: NDArray[np.float32] = padded.reshape(queries // block, block, keys // block, block).max(axis=(1, 3))
    return pooled


def _norm(shown: Iterable[Points], *, log: bool) -> Normalize:
    """Make the scale that all panels share, up to the weight below which nearly all points lie."""
    points = np.concatenate([each.compressed() for each in shown])
    largest = float(np.quantile(points, _WITHIN)) or float(points.max()) or 1.0
    return LogNorm(largest * 10.0**-_DECADES, largest, clip=True) if log else Normalize(0, largest)


def _places(figure: Figure, counts: Sequence[int]) -> list[list[Axes]]:
    """Make room for lines of so many panels; a single line is broken where it is long."""
    across = max(counts)
    if len(counts) == 1 and across > _ACROSS:
        across = math.ceil(math.sqrt(across))
    down = sum(-(-count // across) for count in counts)
    figure.set_size_inches(max(across * (_SIDE_IN + _BESIDE_IN) + 0.9, _LEAST_IN), down * (_SIDE_IN + _ABOVE_IN) + 0.3)
    free = iter(figure.subplots(down, across, squeeze=False).flat)
    places = []
    for count in counts:
        places.append([next(free) for _ in range(count)])
        for _ in range(-count % across):
            next(free).remove()
    return places


def _draw(axes: Axes, panel: Panel, points_PQ: Points, *, norm: Normalize) -> None:
    queries, keys = panel.matrix_TS.shape
    axes.set_facecolor(_HIDDEN)
    axes.imshow(points_PQ, norm=norm, cmap="viridis", extent=(0, keys, queries, 0), interpolation="nearest")
    axes.set_aspect(keys / queries)
    title = "\n".join(filter(None, (plain(panel.title), panel.caption)))
    axes.set_title(title, fontsize="small", parse_math=False)
    axes.set_xticks([0, keys])
    axes.set_yticks([0, queries])
    axes.tick_params(labelsize="x-small", length=2)
    axes.set_xlabel("key", fontsize="x-small", labelpad=-6)
    axes.set_ylabel("query", fontsize="x-small", labelpad=-10)
