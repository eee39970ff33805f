"""Images as sequences, for tasks that show some: pixel by pixel as tokens, or patch by patch as numbers."""

# N images, Y X pixels (rows and columns), T positions, F pixels of a patch
import torch
from msgspec import Struct
from torch import Generator, Tensor

from attnbench import Form


class Layout(Struct, frozen=True, kw_only=True):
    """How an image becomes a sequence: so many positions, tokens below `vocabulary` or `features` numbers each."""

    length: int
    vocabulary: int = 0
    features: int = 0


def layout(side: int, patch: int, *, levels: int) -> Layout:
    """Lay square images of whole numbers below `levels` out; raises ValueError where patches do not divide them."""
    if side % patch:
        fits = ", ".join(str(size) for size in range(1, side + 1) if side % size == 0)
        raise ValueError(f"patch={patch} does not divide images of {side} x {side} pixels; use one of {fits}")
    length = (side // patch) ** 2
    return Layout(length=length, vocabulary=levels) if patch == 1 else Layout(length=length, features=patch**2)


def image_form(side: int, patch: int, *, levels: int, classes: int) -> Form:
    """Give the form of square images by class. Raises ValueError as `layout` does."""
    found = layout(side, patch, levels=levels)
    return Form(
        length=found.length,
        answer="class",
        vocabulary=found.vocabulary,
        features=found.features,
        outputs=classes,
    )


def as_sequence(images_NYX: Tensor, patch: int, *, levels: int) -> Tensor:
    """Lay images of whole numbers below `levels` out row by row.

    Pixels are tokens [N, T]; patches are pixels between 0 and 1, [N, T, F].
    """
    if patch == 1:
        return images_NYX.flatten(1).long()
    rows_NYXpp = images_NYX.unfold(1, patch, patch).unfold(2, patch, patch)
    return rows_NYXpp.flatten(3).flatten(1, 2).float() / (levels - 1)


def moved(images_NYX: Tensor, reach: int, generator: Generator) -> Tensor:
    """Move each image by up to `reach` pixels up or down, left or right; what comes in from outside is 0."""
    count, side = images_NYX.shape[0], images_NYX.shape[-1]
    padded_NYX = torch.nn.functional.pad(images_NYX, (reach,) * 4)
    steps_2N1 = torch.randint(2 * reach + 1, (2, count, 1), generator=generator)
    rows_NY, columns_NX = steps_2N1 + torch.arange(side)
    return padded_NYX[torch.arange(count)[:, None, None], rows_NY[:, :, None], columns_NX[:, None, :]]
