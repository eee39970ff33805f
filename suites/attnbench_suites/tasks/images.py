"""Images as sequences: pixel by pixel as tokens, or patch by patch as numbers."""

# N images, Y X pixels (rows and columns), T positions, F pixels of a patch
import torch
from msgspec import Struct
from torch import Generator, Tensor

from attnbench import Form


class Layout(Struct, frozen=True, kw_only=True):
    """An image as a sequence: `length` positions, each a token below `vocabulary` or `features` numbers."""

    length: int
    vocabulary: int = 0
    features: int = 0


def layout(side: int, patch: int, *, levels: int) -> Layout:
    """Return the layout of square images of `levels` values. Raises ValueError unless `patch` divides `side`."""
    if side % patch:
        fits = ", ".join(str(size) for size in range(1, side + 1) if side % size == 0)
        raise ValueError(f"patch={patch} does not divide images of {side} x {side} pixels; use one of {fits}")
    length = (side // patch) ** 2
    return Layout(length=length, vocabulary=levels) if patch == 1 else Layout(length=length, features=patch**2)


def image_form(side: int, patch: int, *, levels: int, classes: int) -> Form:
    """Return the form of a task that classifies square images. Raises ValueError as `layout` does."""
    found = layout(side, patch, levels=levels)
    return Form(
        length=found.length,
        answer="class",
        vocabulary=found.vocabulary,
        features=found.features,
        outputs=classes,
    )


def as_sequence(images_NYX: Tensor, patch: int, *, levels: int) -> Tensor:
    """Flatten images of integers below `levels` row by row.

    Pixels become tokens [N, T]; patches become pixels between 0 and 1 [N, T, F].
    """
    if patch == 1:
        return images_NYX.flatten(1).long()
    rows_NYXpp = images_NYX.unfold(1, patch, patch).unfold(2, patch, patch)
    return rows_NYXpp.flatten(3).flatten(1, 2).float() / (levels - 1)


def moved(images_NYX: Tensor, reach: int, generator: Generator) -> Tensor:
    """Shift each image at random by up to `reach` pixels along each axis, filling with 0."""
    count, side = images_NYX.shape[0], images_NYX.shape[-1]
    padded_NYX = torch.nn.functional.pad(images_NYX, (reach,) * 4)
    steps_2N1 = torch.randint(2 * reach + 1, (2, count, 1), generator=generator)
    rows_NY, columns_NX = steps_2N1 + torch.arange(side)
    return padded_NYX[torch.arange(count)[:, None, None], rows_NY[:, :, None], columns_NX[:, None, :]]
