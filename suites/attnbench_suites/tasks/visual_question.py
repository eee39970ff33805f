"""Visual questions: the words of a question attend to the patches of a scene of handwritten digits."""

# N examples, C cells of a scene, G cells of its side, Y X pixels (rows and columns), S patches, F pixels of a patch,
# W words of a question
from typing import Annotated, ClassVar, Literal

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks import digits
from attnbench_suites.tasks.images import as_sequence, layout

LARGEST = 3  # cells on a side of a scene: with more cells than digits, they could not all differ
DIGITS = [str(digit) for digit in range(10)]
WORDS = ["", "at", "count", "left", "above", *(f"{line}{number}" for line in ("row", "column") for number in range(3))]
WORDS += DIGITS
ANSWERS = [*DIGITS, "no", "yes"]
KINDS = ("cell", "count", "beside", "order")


class VisualQuestion:
    """Answer a question about a picture (Antol et al. 2015; generated questions as in CLEVR, Johnson et al. 2017).

    The picture is a grid of handwritten digits from scikit-learn's set; the question has three words and is of one of
    four kinds:

    - `cell`: "at row1 column0", the digit there;
    - `count`: "count 7", how many there are, every count equally likely;
    - `beside`: "left 7" or "above 7", the digit to the left of the only 7, or above it;
    - `order`: "7 left 3" or "7 above 3", whether the only 7 is farther left (or up) than the only 3: yes or no.

    Words attend to one another and, by cross-attention, to the patches of the picture: fewer queries than keys, of
    another modality. Which patches matter depends on the question alone. Test scenes use images of digits that no
    training scene shows. The answers are one set of classes: the ten digits (which are also the counts), no and yes.

    There is no published result to compare with; `paper` has the largest scene, in patches of 2 x 2 pixels.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """What is shown and what is asked."""

        grid: Annotated[int, Meta(ge=2, le=LARGEST, description="digits on a side of the picture")] = 3
        patch: Annotated[int, Meta(ge=1, description="side of a patch in pixels; 1: pixels are tokens")] = 4
        ask: Annotated[Literal["all", "cell", "count", "beside", "order"], Meta(description="kind of question")] = "all"

    presets: ClassVar = {
        "tiny": {
            "grid": 2,
            "patch": 4,
            "heads": 4,
            "steps": 700,
            "batch": 64,
            "learning_rate": 2e-3,
            "train_examples": 20_000,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "small": {
            "grid": 3,
            "patch": 4,
            "heads": 4,
            "layers": 3,
            "steps": 2000,
            "batch": 64,
            "learning_rate": 1e-3,
            "train_examples": 100_000,
            "validation_examples": 1000,
            "test_examples": 2000,
            "rates": 3,
            "seeds": 3,
        },
        "paper": {
            "grid": 3,
            "patch": 2,
            "layers": 6,
            "heads": 8,
            "width": 128,
            "dropout": 0.1,
            "steps": 30_000,
            "batch": 128,
            "learning_rate": 5e-4,
            "weight_decay": 0.01,
            "validate_every": 500,
            "train_examples": 400_000,
            "validation_examples": 5000,
            "test_examples": 5000,
            "rates": 4,
            "seeds": 5,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        seen = layout(options.grid * digits.SIDE, options.patch, levels=digits.LEVELS)
        self.form = Form(
            length=3,
            answer="class",
            vocabulary=len(WORDS),
            context_length=seen.length,
            context_vocabulary=seen.vocabulary,
            context_features=seen.features,
            outputs=len(ANSWERS),
        )
        digits.load()

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw questions inputs_NW, pictures context_NSF and answers targets_N; a split has digit images of its own."""
        grid, ask = self.options.grid, self.options.ask
        drawn_N = torch.randint(len(KINDS), (count,), generator=generator)
        kinds_N = drawn_N if ask == "all" else torch.full((count,), KINDS.index(ask))
        scenes_NC, inputs_NW, targets_N = (torch.zeros(count, size).long() for size in (grid**2, 3, 1))
        for kind, draw in enumerate((_cell, _count, _beside, _order)):
            rows_N = (kinds_N == kind).nonzero().flatten()
            scenes_NC[rows_N], inputs_NW[rows_N], targets_N[rows_N, 0] = draw(grid, len(rows_N), generator)
        pictures_NYX = picture(scenes_NC, split, generator)
        context_NSF = as_sequence(pictures_NYX, self.options.patch, levels=digits.LEVELS)
        return inputs_NW, context_NSF, targets_N[:, 0]


def picture(scenes_NC: Tensor, split: str, generator: Generator) -> Tensor:
    """Return pictures_NYX: each cell's digit drawn as one of the split's images of it."""
    images_NYX, labels_N = digits.load()
    own_N = torch.tensor(digits.numbers_of(split))
    chosen_NC = torch.zeros_like(scenes_NC)
    for digit in range(10):
        alike_N = own_N[labels_N[own_N] == digit]
        cells_NC = scenes_NC == digit
        chosen_NC[cells_NC] = alike_N[torch.randint(len(alike_N), (int(cells_NC.sum()),), generator=generator)]
    grid = round(scenes_NC.shape[1] ** 0.5)
    cells_NGGYX: Tensor = images_NYX[chosen_NC].unflatten(1, (grid, grid))
    return cells_NGGYX.transpose(2, 3).flatten(3, 4).flatten(1, 2)


Drawn = tuple[Tensor, Tensor, Tensor]  # scenes_NC, inputs_NW, targets_N


def _cell(grid: int, count: int, generator: Generator) -> Drawn:
    scenes_NC = torch.randint(10, (count, grid**2), generator=generator)
    cells_N = torch.randint(grid**2, (count,), generator=generator)
    rows_N, columns_N = _word("row0") + cells_N // grid, _word("column0") + cells_N % grid
    inputs_NW = torch.stack((_word("at").expand(count), rows_N, columns_N), dim=1)
    return scenes_NC, inputs_NW, _at(scenes_NC, cells_N)


def _count(grid: int, count: int, generator: Generator) -> Drawn:
    cells = grid**2
    asked_N = torch.randint(10, (count,), generator=generator)
    targets_N = torch.randint(min(cells, 9) + 1, (count,), generator=generator)
    others_NC = (asked_N[:, None] + torch.randint(1, 10, (count, cells), generator=generator)) % 10
    ranks_NC = torch.rand(count, cells, generator=generator).argsort(1)
    scenes_NC = torch.where(ranks_NC < targets_N[:, None], asked_N[:, None], others_NC)
    return scenes_NC, _asked(_word("count").expand(count), asked_N), targets_N


def _beside(grid: int, count: int, generator: Generator) -> Drawn:
    scenes_NC = _different(grid, count, generator)
    above_N = torch.randint(2, (count,), generator=generator)
    line_N = torch.randint(1, grid, (count,), generator=generator)  # not the first, which has nothing beyond it
    along_N = torch.randint(grid, (count,), generator=generator)
    cells_N = torch.where(above_N == 1, line_N * grid + along_N, along_N * grid + line_N)
    targets_N = _at(scenes_NC, cells_N - torch.where(above_N == 1, grid, 1))
    return scenes_NC, _asked(_word("left") + above_N, _at(scenes_NC, cells_N)), targets_N


def _order(grid: int, count: int, generator: Generator) -> Drawn:
    scenes_NC = _different(grid, count, generator)
    above_N = torch.randint(2, (count,), generator=generator)
    lines_N2 = torch.rand(count, grid, generator=generator).argsort(1)[:, :2]
    along_N2 = torch.randint(grid, (count, 2), generator=generator)
    cells_N2 = torch.where(above_N[:, None] == 1, lines_N2 * grid + along_N2, along_N2 * grid + lines_N2)
    one_N, other_N = scenes_NC.gather(1, cells_N2).T
    inputs_NW = torch.stack((_word("0") + one_N, _word("left") + above_N, _word("0") + other_N), dim=1)
    return scenes_NC, inputs_NW, ANSWERS.index("no") + (lines_N2[:, 0] < lines_N2[:, 1]).long()


def _different(grid: int, count: int, generator: Generator) -> Tensor:
    """Draw scenes in which no digit occurs twice."""
    return torch.rand(count, 10, generator=generator).argsort(1)[:, : grid**2]


def _word(word: str) -> Tensor:
    return torch.tensor(WORDS.index(word))


def _asked(verb_N: Tensor, digit_N: Tensor) -> Tensor:
    return torch.stack((verb_N, _word("0") + digit_N, _word("").expand(len(digit_N))), dim=1)


def _at(scenes_NC: Tensor, cells_N: Tensor) -> Tensor:
    return scenes_NC.gather(1, cells_N[:, None])[:, 0]
