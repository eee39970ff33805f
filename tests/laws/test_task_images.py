"""Tasks of real images: digits, and CIFAR-10 in grey on small files of its format."""

# N images, T positions, F pixels of a patch
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Generator

from attnbench import Unsupported
from attnbench.plugins.describe import describe_task
from attnbench_suites.tasks import digits, pixels, sources
from attnbench_suites.tasks.digits import Digits
from attnbench_suites.tasks.pixels import Pixels
from helpers.learning import TASKS, built
from helpers.made_files import as_records
from helpers.subtests import as_subtests

ALL = 10**6


def drawn(task: Any, split: str, count: int = ALL, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = task.examples(split, count, Generator().manual_seed(seed))
    return inputs.numpy(), targets.numpy()


def put_together(patches_TF: np.ndarray, side: int) -> np.ndarray:
    """Lay patches out as the image that they come from, pixel by pixel."""
    patch = round(patches_TF.shape[-1] ** 0.5)
    across = side // patch
    image = np.empty((side, side))
    for row, column in np.ndindex(side, side):
        position = row // patch * across + column // patch
        image[row, column] = patches_TF[position, row % patch * patch + column % patch]
    return image


# Digits.


def test_the_splits_of_digits_are_the_set_each_image_once_with_its_digit() -> None:
    task = Digits(Digits.Options(shift=0))
    found = [drawn(task, split) for split in ("train", "validation", "test")]
    assert [len(targets) for _, targets in found] == [650, 147, 1000]
    given = load_digits()
    expected = sorted((*map(int, row), digit) for row, digit in zip(given.data, given.target, strict=True))
    assert sorted((*row, digit) for inputs, targets in found for row, digit in zip(inputs, targets, strict=True)) == (
        expected
    )


def test_a_seed_changes_the_order_of_digits_and_never_the_split() -> None:
    task = Digits(Digits.Options(shift=0))
    orders = [drawn(task, "test", seed=seed)[0].tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert drawn(task, "test", 30)[0].tolist() == orders[0][:30]


def test_training_images_are_shifted_by_no_more_than_asked_and_stay_in_their_split() -> None:
    own = drawn(Digits(Digits.Options(shift=0)), "train")
    known = {}
    for row, digit in zip(*own, strict=True):
        padded = np.pad(row.reshape(8, 8), 2)
        for down, right in np.ndindex(5, 5):
            known[padded[down : down + 8, right : right + 8].tobytes()] = ((2 - down, 2 - right), digit)
    inputs, targets = drawn(Digits(Digits.Options(shift=2)), "train", 5000)
    steps = [known[row.reshape(8, 8).tobytes()] for row in inputs]
    assert [digit for _, digit in steps] == targets.tolist()
    shares = np.array(
        [np.mean([step == (down - 2, right - 2) for step, _ in steps]) for down, right in np.ndindex(5, 5)]
    )
    assert abs(shares - 1 / 25).max() < 4.5 * (0.04 * 0.96 / 5000) ** 0.5


def test_patches_of_digits_are_the_pixels_between_0_and_1() -> None:
    pixels_NT, _ = drawn(Digits(Digits.Options()), "test", 20)
    for patch in (2, 4, 8):
        patches_NTF, _ = drawn(Digits(Digits.Options(patch=patch)), "test", 20)
        images = [put_together(patches_TF, 8) for patches_TF in patches_NTF]
        assert np.allclose(np.array(images).reshape(20, 64) * 16, pixels_NT, atol=1e-5)


def test_the_nearest_training_image_names_most_digits_of_the_test_split() -> None:
    task = Digits(Digits.Options(shift=0))
    nearest = KNeighborsClassifier(1).fit(*drawn(task, "train"))
    assert nearest.score(*drawn(task, "test")) > 0.95


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    digits.load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    mistake = describe_task(TASKS["digits"], {}).mistake
    assert mistake == ("the images come with scikit-learn, which is not installed; pip install 'attnbench[vision]'")


@as_subtests("task, side", [(Digits, 8), (Pixels, 32)])
def test_patches_that_do_not_divide_an_image_are_refused_by_name(task: Any, side: int) -> None:
    with pytest.raises(ValueError, match=rf"patch=3 does not divide images of {side} x {side} pixels; use one of 1, 2"):
        task(task.Options(patch=3))


# CIFAR-10.


@pytest.fixture
def colours(tmp_path: Path) -> Any:
    """Write five training files of 4 to 8 images and a test file of 15; return what is in them, and where."""
    random = np.random.default_rng(1)
    found = SimpleNamespace(path=tmp_path, images={}, classes={})
    for name, count in (*((f"data_batch_{number}", 3 + number) for number in range(1, 6)), ("test_batch", 15)):
        found.images[name] = random.integers(256, size=(count, 3, 32, 32), dtype=np.uint8)
        found.classes[name] = random.integers(10, size=count)
        as_records(tmp_path / f"{name}.bin", found.classes[name], found.images[name])
    return found


def ours(path: Path, split: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    return drawn(Pixels(Pixels.Options(path=str(path), **options)), split)


def looks_like(row: np.ndarray, image: np.ndarray) -> bool:
    grey = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"), dtype=int).flatten()
    return bool(abs(row - grey).max() <= 1)  # Pillow has the same weights and rounds its own way


def test_pixels_are_the_files_images_in_grey_with_their_classes_the_last_tenth_for_validation(colours: Any) -> None:
    names = [f"data_batch_{number}" for number in range(1, 6)]
    training = [np.concatenate([each[name] for name in names]) for each in (colours.images, colours.classes)]
    expected = {
        "train": [each[:27] for each in training],
        "validation": [each[27:] for each in training],
        "test": [colours.images["test_batch"], colours.classes["test_batch"]],
    }
    for split, (images, classes) in expected.items():
        rows, targets = ours(colours.path, split)
        partners = [[n for n, image in enumerate(images) if looks_like(row, image)] for row in rows]
        assert sorted(partners) == [[n] for n in range(len(images))]
        assert [classes[n] for (n,) in partners] == targets.tolist()


def test_grey_of_grey_is_the_same_and_of_colours_the_weighted_mean() -> None:
    same = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    assert (pixels.grey(same).flatten().int() - torch.arange(256)).abs().max() <= 1
    pure = torch.eye(3, dtype=torch.uint8).mul(200).view(3, 3, 1, 1)
    assert pixels.grey(pure).flatten().tolist() == [59, 117, 22]


def test_patches_of_pixels_are_the_same_images(colours: Any) -> None:
    rows, classes = ours(colours.path, "test")
    patches_NTF, again = ours(colours.path, "test", patch=8)
    assert np.array_equal(classes, again)
    images = np.array([put_together(patches_TF, 32) for patches_TF in patches_NTF])
    assert np.allclose(images.reshape(15, -1) * 255, rows, atol=1e-3)


def test_the_hub_gives_the_same_examples_as_the_files(colours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, *, split: str) -> dict[str, Any]:
        assert (name, split) == ("uoft-cs/cifar10", "test")
        images = [Image.fromarray(image.transpose(1, 2, 0)) for image in colours.images["test_batch"]]
        return {"img": images, "label": colours.classes["test_batch"].tolist()}

    has_hub(monkeypatch, load_dataset)
    inputs, targets = drawn(Pixels(Pixels.Options()), "test")
    rows, classes = ours(colours.path, "test")
    assert np.array_equal(inputs, rows)
    assert np.array_equal(targets, classes)


def test_without_a_network_the_row_says_so_and_gives_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, *, split: str) -> None:
        raise ConnectionError("no route to host")

    has_hub(monkeypatch, load_dataset)
    reason = r"could not be had from the hub \(ConnectionError: no route to host\); connect to it, or give path=FOLDER"
    with pytest.raises(Unsupported, match=reason):
        drawn(Pixels(Pixels.Options()), "train")


def has_hub(monkeypatch: pytest.MonkeyPatch, load_dataset: Any) -> None:
    pixels.from_hub.cache_clear()
    monkeypatch.setattr(sources, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_without_the_package_and_a_path_the_plan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    mistake = describe_task(TASKS["pixels"], {"preset": "large"}).mistake
    assert mistake.startswith(
        "CIFAR-10 (uoft-cs/cifar10) is downloaded by the package datasets, which is not installed: "
        "pip install 'attnbench[hub]', or give path=FOLDER with data_batch_1.bin, "
    )


def test_a_folder_without_the_files_or_with_half_a_file_is_refused(colours: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"path=.*empty has no data_batch_1.bin; give a folder with data_batch_1.bin"):
        ours(tmp_path / "empty", "test")
    file = colours.path / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"test_batch.bin has 46088 bytes, which are not records of 3073"):
        ours(colours.path, "test")


def test_the_preset_large_of_pixels_has_long_range_arenas_sizes() -> None:
    task, training = built("pixels", preset="large")
    assert (task.form.length, task.form.vocabulary, task.form.outputs) == (1024, 256, 10)
    assert (training.layers, training.heads, training.width, training.feed_forward) == (1, 8, 128, 1)
    assert (training.batch, training.steps // (45_000 // 256), training.learning_rate) == (256, 200, 5e-4)
    assert training.seeds == 5
