"""CIFAR-10 in grey as a sequence of pixels: Long Range Arena's image task, from files or from the hub."""

# N images, Y X pixels (rows and columns), T positions, R bytes of a record
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Options as BaseOptions
from attnbench import Unsupported
from attnbench_suites.tasks.images import as_sequence, image_form
from attnbench_suites.tasks.sources import check_source, chosen, listed

SIDE, LEVELS, CLASSES = 32, 256, 10
RECORD = 1 + 3 * SIDE**2
WEIGHTS = (0.2989, 0.5870, 0.1140)  # of red, green and blue, as in tf.image.rgb_to_grayscale
FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
ON_HUB = "uoft-cs/cifar10"


class Pixels:
    """Classify a small photograph (Tay et al. 2020, "Long Range Arena", section 2.2.4; Krizhevsky 2009).

    CIFAR-10's images of 32 x 32 pixels in 10 classes, converted to grey and flattened row by row into 1024 tokens of 8
    bits, or into patches of numbers. The pixels of a shape are far apart in such a sequence, and the model is not told
    that it was an image.

    The first nine tenths of the training images are for training, the last tenth for validation, and the set's own test
    images for testing. A seed changes their order, and which of them are drawn where fewer are asked for. The images
    come from `path`, a folder with the files of CIFAR-10's binary version, or from the hub, downloaded when a case
    first needs them (170 MB; `pip install 'attnbench[hub]'`).

    Most of what Long Range Arena rewards is short-range (Miralles-Gonzalez et al. 2025, "On the locality bias and
    results in the Long Range Arena"): a high score here does not show that a mechanism reaches far.

    `large` has the sizes of Long Range Arena's code for the Transformer (image/configs/cifar10/transformer_base.py): 1
    layer of 8 heads, width 128, 200 epochs. It differs in that heads share the whole width rather than 64 features, and
    the class is read from the mean of all positions rather than from a class token. `tiny` reads patches of 4 x 4
    pixels.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Where the images are, and how they are read."""

        path: Annotated[str, Meta(description="folder of CIFAR-10's binary version; empty: the hub")] = ""
        patch: Annotated[int, Meta(ge=1, description="side of a patch in pixels; 1: pixels are tokens")] = 1

    renamed: ClassVar = {"paper": "large"}
    presets: ClassVar = {
        "tiny": {
            "patch": 4,
            "heads": 4,
            "steps": 600,
            "batch": 32,
            "learning_rate": 1e-3,
            "train_examples": 10_000,
            "validation_examples": 500,
            "test_examples": 2000,
        },
        "small": {
            "patch": 2,
            "heads": 4,
            "layers": 3,
            "dropout": 0.1,
            "steps": 900,
            "batch": 32,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "train_examples": 45_000,
            "validation_examples": 1000,
            "test_examples": 2000,
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
            "train_examples": 45_000,
            "validation_examples": 5000,
            "test_examples": 10_000,
            "rates": 4,
            "seeds": 5,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        self.form = image_form(SIDE, options.patch, levels=LEVELS, classes=CLASSES)
        check_source(options.path, FILES, what=f"CIFAR-10 ({ON_HUB})")
        for name in FILES if options.path else ():
            _check_size(Path(options.path) / name)

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT (or inputs_NTF) and the classes targets_N from a split's images."""
        part, path = "test" if split == "test" else "train", self.options.path
        images_NYX, classes_N = from_folder(path, part) if path else from_hub(part)
        first = len(classes_N) * 9 // 10
        own = {"train": range(first), "validation": range(first, len(classes_N)), "test": range(len(classes_N))}[split]
        rows_N = chosen(own, count, generator)
        return as_sequence(images_NYX[rows_N], self.options.patch, levels=LEVELS), classes_N[rows_N]


def grey(colours_N3YX: Tensor) -> Tensor:
    """Convert RGB bytes to bytes of grey [N, Y, X], rounded as TensorFlow does."""
    shades_NYX = torch.einsum("ncyx,c->nyx", colours_N3YX.float() / 255, torch.tensor(WEIGHTS))
    return (shades_NYX * 255.5).to(torch.uint8)


@cache
def from_folder(path: str, part: str) -> tuple[Tensor, Tensor]:
    """Read images_NYX and classes_N from a folder's test file, or from its training files in order."""
    names = FILES[-1:] if part == "test" else FILES[:-1]
    records = [np.fromfile(Path(path) / name, dtype=np.uint8).reshape(-1, RECORD) for name in names]
    records_NR = torch.from_numpy(np.concatenate(records))
    return grey(records_NR[:, 1:].view(-1, 3, SIDE, SIDE)), records_NR[:, 0].long()


@cache
def from_hub(part: str) -> tuple[Tensor, Tensor]:
    """Return images_NYX and classes_N from the hub, downloading them if needed. Raises Unsupported if that fails."""
    import datasets

    try:
        found: Any = datasets.load_dataset(ON_HUB, split=part)
        colours_NYX3 = torch.from_numpy(np.stack([np.asarray(image, dtype=np.uint8) for image in found["img"]]))
        return grey(colours_NYX3.permute(0, 3, 1, 2)), torch.tensor(found["label"])
    except Exception as error:
        raise Unsupported(
            f"CIFAR-10 ({ON_HUB}) could not be had from the hub ({type(error).__name__}: {error}); "
            f"connect to it, or give path=FOLDER with {listed(FILES)}"
        ) from error


def _check_size(file: Path) -> None:
    """Raise ValueError if a file is not one of CIFAR-10's binary version."""
    size = file.stat().st_size
    if not size or size % RECORD:
        raise ValueError(f"{file} has {size} bytes, which are not records of {RECORD}: it is cut off, or no CIFAR-10")
