"""Handwritten digits, read pixel by pixel or patch by patch: real images that ship with scikit-learn."""

# N examples, Y X pixels (rows and columns), T positions
from functools import cache
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Options as BaseOptions
from attnbench_suites.tasks.images import as_sequence, image_form, moved
from attnbench_suites.tasks.sources import chosen

SIDE, LEVELS, CLASSES = 8, 17, 10
SIZES = {"test": 1000, "validation": 147, "train": 650}
SHUFFLE = 1998


class Digits:
    """Classify a handwritten digit (Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI).

    The 1797 images of `sklearn.datasets.load_digits`, 8 x 8 pixels in 17 shades of grey, as sequences of pixels
    (tokens) or of patches (numbers). A digit is an arrangement of strokes across the whole image, and pixels that touch
    are far apart in the sequence, as in Long Range Arena's image task (Tay et al. 2020, section 2.2.4). This is a small
    version of it that needs no download.

    The set is split once, by a fixed shuffle: 650 images for training, 147 for validation, 1000 for testing. A seed
    changes their order, and which of them are drawn where fewer are asked for. Training images are shifted by up to
    `shift` pixels, at random each time, so there may be more training examples than images.

    There is no published result of attention to compare with. `large` has the sizes of Long Range Arena's image model
    instead: 1 layer, 8 heads, width 128, 35,000 steps of 256 images.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """How an image is read."""

        patch: Annotated[int, Meta(ge=1, description="side of a patch in pixels; 1: pixels are tokens")] = 1
        shift: Annotated[int, Meta(ge=0, le=4, description="most pixels by which training images are shifted")] = 1

    renamed: ClassVar = {"paper": "large"}
    presets: ClassVar = {
        "tiny": {
            "patch": 1,
            "heads": 4,
            "steps": 500,
            "batch": 32,
            "learning_rate": 3e-3,
            "train_examples": 6500,
            "validation_examples": 147,
            "test_examples": 1000,
        },
        "small": {
            "patch": 1,
            "layers": 3,
            "heads": 4,
            "width": 64,
            "dropout": 0.1,
            "steps": 2500,
            "batch": 32,
            "learning_rate": 2e-3,
            "weight_decay": 0.01,
            "train_examples": 32_500,
            "validation_examples": 147,
            "test_examples": 1000,
            "rates": 3,
            "seeds": 3,
        },
        "large": {
            "patch": 1,
            "layers": 1,
            "heads": 8,
            "width": 128,
            "feed_forward": 1.0,
            "beta2": 0.98,
            "dropout": 0.3,
            "weight_dropout": 0.2,
            "steps": 35_000,
            "batch": 256,
            "learning_rate": 5e-4,
            "warmup": 0.005,
            "clip": 0.0,
            "validate_every": 175,
            "train_examples": 65_000,
            "validation_examples": 147,
            "test_examples": 1000,
            "rates": 4,
            "seeds": 5,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        self.form = image_form(SIDE, options.patch, levels=LEVELS, classes=CLASSES)
        load()

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT (or inputs_NTF) and the digits targets_N from a split's own images."""
        images_NYX, digits_N = load()
        own, shift = numbers_of(split), self.options.shift
        if split != "train" or not shift:
            rows_N = chosen(own, count, generator)
            return as_sequence(images_NYX[rows_N], self.options.patch, levels=LEVELS), digits_N[rows_N]
        turns = range(-(-count // len(own)))
        rows_N = [row for _ in turns for row in chosen(own, len(own), generator)][:count]
        seen_NYX = moved(images_NYX[rows_N], shift, generator)
        return as_sequence(seen_NYX, self.options.patch, levels=LEVELS), digits_N[rows_N]


def numbers_of(split: str) -> list[int]:
    """Return the indices of a split's images."""
    order = torch.randperm(sum(SIZES.values()), generator=Generator().manual_seed(SHUFFLE)).tolist()
    before = {"test": 0, "validation": SIZES["test"], "train": SIZES["test"] + SIZES["validation"]}[split]
    return order[before : before + SIZES[split]]


@cache
def load() -> tuple[Tensor, Tensor]:
    """Load images_NYX (integers up to 16) and digits_N. Raises ValueError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "the images come with scikit-learn, which is not installed; pip install 'attnbench[vision]'"
        ) from error
    found = load_digits()
    return torch.from_numpy(found.images).long(), torch.from_numpy(found.target).long()
