"""Pathfinder: are two dots the ends of one dashed path, or of two? Generated, at any size."""

# N drawings, Y X pixels (rows and columns), K headings, P pixels of a dash, D dashes, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta, Struct
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.images import as_sequence, layout

BLANK, DASH, DOT = 0, 1, 2
LEVELS = 3
HEADINGS_K2 = torch.tensor([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
# Reflections: up-down, left-right, in either diagonal, and through a point. Each is its own inverse.
MIRRORS_M22 = torch.tensor(
    [((-1, 0), (0, 1)), ((1, 0), (0, -1)), ((0, 1), (1, 0)), ((0, -1), (-1, 0)), ((-1, 0), (0, -1))]
)


class Pathfinder:
    """Decide whether one dashed path joins two dots (Linsley et al. 2018; Houtkamp and Roelfsema 2010).

    A drawing has two long paths with equally many dashes, and shorter paths as distractors. Consecutive dashes keep
    their heading or turn by 45 degrees; `gap` blank pixels separate them, and different paths are farther apart than
    that everywhere. So which dashes belong together is certain, but only step by step along the path. One dot marks an
    end of a long path; the other marks its other end (class 1) or an end of the other long path (class 0).

    Every drawing is prepared for both answers before a coin decides: the second path begins at the mirror image of the
    first path's end, and only pairs are kept that would fit just as well mirrored. So neither the drawing nor the pair
    of dots gives the answer away: not the distance between the dots, nor how much is drawn, nor where. A model must hop
    from dash to dash.

    Most of what Long Range Arena rewards is short-range (Miralles-Gonzalez et al. 2025, "On the locality bias and
    results in the Long Range Arena"): a high score here does not show that a mechanism reaches far.

    `large` follows Long Range Arena's Pathfinder of 32 x 32 pixels (Tay et al. 2020, section 2.2.5) and its code for
    the Transformer (image/configs/pathfinder32/transformer_base.py): 4 layers of 4 heads, width 32, 200 epochs of
    160,000 drawings. Its Path-X is `side=128,dashes=14`. It differs in that drawings are made at their final size
    (dashes on the pixel grid, eight headings, three shades) rather than shrunk from 300 x 300; a path of 7 dashes spans
    20 of 32 pixels, while one of their hardest, of 14 dashes, spans half the side; of the `distractors` as many are
    drawn as fit, each a third as long; and heads share the whole width rather than 16 features.

    `tiny` is deliberately easy, so that attention learns it in a minute: 16 x 16 pixels in patches of 4 x 4, paths of 3
    dashes, no distractors.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """What is drawn; the defaults are those of `large`."""

        side: Annotated[int, Meta(ge=8, le=256, description="side of the drawing in pixels")] = 32
        patch: Annotated[int, Meta(ge=1, description="side of a patch in pixels; 1: pixels are tokens")] = 1
        dashes: Annotated[int, Meta(ge=2, description="dashes in each of the two long paths")] = 7
        dash: Annotated[int, Meta(ge=1, description="pixels in a dash")] = 2
        gap: Annotated[int, Meta(ge=1, description="blank pixels between dashes; paths are farther apart")] = 1
        distractors: Annotated[int, Meta(ge=0, description="shorter paths, as many as fit")] = 6
        bend: Annotated[float, Meta(ge=0, le=1, description="share of dashes that turn by 45 degrees")] = 0.5

    renamed: ClassVar = {"paper": "large"}
    presets: ClassVar = {
        "tiny": {
            "side": 16,
            "patch": 4,
            "dashes": 3,
            "distractors": 0,
            "heads": 4,
            "steps": 1400,
            "batch": 128,
            "learning_rate": 2e-3,
            "train_examples": 40_000,
            "validation_examples": 1000,
            "test_examples": 2000,
        },
        "small": {
            "side": 16,
            "patch": 4,
            "dashes": 4,
            "distractors": 2,
            "heads": 4,
            "layers": 3,
            "steps": 3000,
            "batch": 256,
            "learning_rate": 1e-3,
            "train_examples": 100_000,
            "validation_examples": 1500,
            "test_examples": 2500,
            "rates": 3,
            "seeds": 3,
        },
        "large": {
            "side": 32,
            "patch": 1,
            "dashes": 7,
            "distractors": 6,
            "layers": 4,
            "heads": 4,
            "width": 32,
            "feed_forward": 1.0,
            "positions": "sinusoidal",
            "beta2": 0.98,
            "dropout": 0.2,
            "weight_dropout": 0.1,
            "steps": 62_400,
            "batch": 512,
            "learning_rate": 1e-3,
            "warmup": 0.005,
            "clip": 0.0,
            "validate_every": 312,
            "train_examples": 160_000,
            "validation_examples": 20_000,
            "test_examples": 20_000,
            "rates": 4,
            "seeds": 5,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        seen = layout(options.side, options.patch, levels=LEVELS)
        self.form = Form(
            length=seen.length,
            answer="class",
            vocabulary=seen.vocabulary,
            features=(LEVELS - 1) * seen.features,  # for each pixel a number for a dash and one for a dot
            outputs=2,
        )
        self.chunk = max(32, min(512, 2**23 // options.side**2))  # drawings attempted at once
        if not len(_draw(options, self.chunk, Generator().manual_seed(0)).dots_N32):
            raise ValueError(
                f"side={options.side} has no room for two paths of dashes={options.dashes} (dash={options.dash}, "
                f"gap={options.gap}); use fewer dashes or a longer side"
            )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT (or inputs_NTF) and targets_N: 1 if one path joins the dots. All splits are alike."""
        del split
        drawn: list[Drawings] = []
        while sum(len(some.dots_N32) for some in drawn) < count:
            drawn.append(_draw(self.options, self.chunk, generator))
        images_NYX = torch.cat([some.images_NYX for some in drawn])[:count]
        first_N2, other_N2, joined_N2 = torch.cat([some.dots_N32 for some in drawn])[:count].unbind(1)
        targets_N = torch.randint(2, (count,), generator=generator)
        second_N2 = torch.where(targets_N[:, None] == 1, joined_N2, other_N2)
        for y_N, x_N in (first_N2.T, second_N2.T):
            images_NYX[torch.arange(count), y_N, x_N] = DOT
        if self.options.patch == 1:
            return as_sequence(images_NYX, 1, levels=LEVELS), targets_N
        planes = [as_sequence((images_NYX == level).long(), self.options.patch, levels=2) for level in (DASH, DOT)]
        return torch.cat(planes, dim=-1), targets_N


class Drawings(Struct, frozen=True):
    """Drawings without dots, and where the dots may go: the first, then the second for class 0 and for class 1."""

    images_NYX: Tensor
    dots_N32: Tensor


def _draw(options: Pathfinder.Options, count: int, generator: Generator) -> Drawings:
    """Attempt `count` drawings and return those in which both long paths found room."""
    one_NP2, other_NP2, taken_NYX = _pair(options, count, generator)
    paths = [(each_NP2, torch.ones(len(each_NP2)).bool()) for each_NP2 in (one_NP2, other_NP2)]
    for _ in range(options.distractors):
        start_N = _pick(~taken_NYX.flatten(1), generator)  # outside if nothing is free, where no path finds room
        start_N2 = torch.stack((start_N // taken_NYX.shape[-1], start_N % taken_NYX.shape[-1]), dim=-1)
        paths.append(_grow(taken_NYX, start_N2, max(1, options.dashes // 3), options, generator))
    images_NYX = torch.full(taken_NYX.shape, BLANK)
    for pixels_NP2, whole_N in paths:
        y_NP, x_NP = pixels_NP2[whole_N].unbind(-1)
        images_NYX[whole_N.nonzero(), y_NP, x_NP] = DASH
    border = _border(options)
    dots_N32 = torch.stack((one_NP2[:, 0], other_NP2[:, 0], one_NP2[:, -1]), dim=1)
    return Drawings(images_NYX[:, border:-border, border:-border], dots_N32 - border)


def _pair(options: Pathfinder.Options, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Attempt `count` pairs of long paths; the second starts as far from the first's start as the first one ends.

    Both are drawn on a canvas without edges. Then a position is chosen among all at which the pair fits, and would
    still fit after the reflection that swaps the two candidate positions of the second dot. Returns pixels_NP2 of both
    paths and the pixels that they occupy, for the pairs that found room.
    """
    wide_NYX = _canvas(count, 2 * options.side + 1, _border(options))
    middle_N2 = torch.full((count, 2), wide_NYX.shape[-1] // 2)
    other_NP2, whole_N = _grow(wide_NYX.clone(), middle_N2, options.dashes, options, generator)
    one_NP2, fits_N = _grow(wide_NYX, middle_N2, options.dashes, options, generator)
    one_NP2, other_NP2 = (_either_way(pixels_NP2, generator) for pixels_NP2 in (one_NP2, other_NP2))
    mirror_N22 = MIRRORS_M22[torch.randint(len(MIRRORS_M22), (count,), generator=generator)]
    begin_N12, apart_N12 = one_NP2[:, :1], one_NP2[:, -1:] - one_NP2[:, :1]
    other_NP2 = other_NP2 - other_NP2[:, :1] + begin_N12 + apart_N12 @ mirror_N22
    y_NP, x_NP = other_NP2.clamp(0, wide_NYX.shape[-1] - 1).unbind(-1)  # farther out it fits nowhere
    clear_N = ~wide_NYX[torch.arange(count)[:, None], y_NP, x_NP].any(1)
    both_NP2 = torch.cat((one_NP2, other_NP2), dim=1) - begin_N12
    shown_NP2 = torch.cat((both_NP2, both_NP2 @ mirror_N22), dim=1)
    first_N2, room_N2 = -shown_NP2.amin(1), options.side - shown_NP2.amax(1) + shown_NP2.amin(1)
    kept_N = (fits_N & whole_N & clear_N & (room_N2 > 0).all(1)).nonzero().flatten()
    shares_N2 = torch.rand(len(kept_N), 2, dtype=torch.float64, generator=generator)
    place_N2 = first_N2[kept_N] + (shares_N2 * room_N2[kept_N]).long() + _border(options)
    one_NP2, other_NP2 = (both_NP2[kept_N] + place_N2[:, None]).chunk(2, dim=1)
    taken_NYX = _canvas(len(kept_N), options.side, _border(options))
    _take(taken_NYX, torch.cat((one_NP2, other_NP2), dim=1), options.gap + 1)
    return one_NP2, other_NP2, taken_NYX


def _border(options: Pathfinder.Options) -> int:
    """Return the width of the occupied border, which keeps paths inside the drawing."""
    return options.dash + 2 * options.gap + 2


def _canvas(count: int, side: int, border: int) -> Tensor:
    """Return the occupied pixels [N, Y, X] of an empty drawing: its border."""
    taken_NYX = torch.ones(count, *(side + 2 * border,) * 2, dtype=torch.bool)
    taken_NYX[:, border:-border, border:-border] = False
    return taken_NYX


def _grow(
    taken_NYX: Tensor, tip_N2: Tensor, dashes: int, options: Pathfinder.Options, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Grow a path in each drawing from a pixel, dash by dash over free pixels, and mark its surroundings as occupied.

    Returns its pixels_NP2 in order, and whole_N: whether all dashes found room.
    """
    heading_N, whole_N = torch.zeros(len(tip_N2)).long(), torch.ones(len(tip_N2)).bool()
    rows_N, path = torch.arange(len(tip_N2)), []
    for number in range(dashes):
        lead_NK2 = _lead(heading_N, options.gap) if number else 0
        dash_NKP2 = (tip_N2[:, None] + lead_NK2)[:, :, None] + _dashes(options.dash)
        taken_NK = taken_NYX[rows_N[:, None, None], dash_NKP2[..., 0], dash_NKP2[..., 1]].any(-1)
        weights_NK = ~taken_NK * (_turns(options.bend)[heading_N] if number else 1.0)
        whole_N &= weights_NK.sum(1) > 0
        heading_N = _pick(weights_NK, generator)
        path.append(dash_NKP2[rows_N, heading_N])
        tip_N2 = torch.where(whole_N[:, None], path[-1][:, -1], tip_N2)
        if number:  # the newest dash's surroundings stay free for the next dash
            _take(taken_NYX, path[-2], options.gap + 1)
    _take(taken_NYX, path[-1], options.gap + 1)
    return torch.cat(path, dim=1), whole_N


def _either_way(pixels_NP2: Tensor, generator: Generator) -> Tensor:
    """Reverse each path at random: it was grown from one of its ends, and may begin at either."""
    turned_N = torch.randint(2, (len(pixels_NP2), 1, 1), generator=generator) == 1
    return torch.where(turned_N, pixels_NP2.flip(1), pixels_NP2)


def _pick(weights_NK: Tensor, generator: Generator) -> Tensor:
    """Sample one of K for each N by weight; the first if all weights are zero."""
    edges_NK = weights_NK.double().cumsum(1)
    places_N1 = torch.rand(len(edges_NK), 1, dtype=torch.float64, generator=generator) * edges_NK[:, -1:]
    return torch.searchsorted(edges_NK, places_N1, right=True).flatten() % edges_NK.shape[1]


def _dashes(length: int) -> Tensor:
    """Return a dash's pixels for each heading, relative to the first one [K, P, 2]."""
    return torch.arange(length)[:, None] * HEADINGS_K2[:, None]


def _lead(heading_N: Tensor, gap: int) -> Tensor:
    """Return the step across the gap [N, K, 2]: first in the old heading, then in the new one."""
    before = (gap + 1) // 2
    return before * HEADINGS_K2[heading_N][:, None] + (gap + 1 - before) * HEADINGS_K2


def _turns(bend: float) -> Tensor:
    """Return the weights of the next heading for each heading [K, K]."""
    straight_KK = torch.eye(len(HEADINGS_K2))
    return (1 - bend) * straight_KK + bend / 2 * (straight_KK.roll(1, 1) + straight_KK.roll(-1, 1))


def _take(taken_NYX: Tensor, pixels_NP2: Tensor, reach: int) -> None:
    """Mark as occupied every pixel within `reach` of the given ones, counting a diagonal step as 1."""
    around = torch.arange(-reach, reach + 1)
    y_NPWW, x_NPWW = pixels_NP2[..., 0, None, None] + around[:, None], pixels_NP2[..., 1, None, None] + around
    taken_NYX[torch.arange(len(taken_NYX))[:, None, None, None], y_NPWW, x_NPWW] = True
