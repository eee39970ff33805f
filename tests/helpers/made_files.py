"""Small files in the format of published ones, for tasks whose data is not generated: none is downloaded for a test."""

import atexit
import functools
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

NEUTRAL = ("the", "a", "film", "plot", "scene", "actor", "of", "and", "with", "in", "it", "was", "there", "minute")
VERDICTS = (["dull", "weak", "awful", "poor"], ["bright", "strong", "lovely", "rich"])
RELATIONS = ("we propose", "we follow")


def reviews(folder: Path, *, train: int = 3000, test: int = 1200) -> None:
    """Write reviews as the hub's set of IMDb has them: one word tells whether they are good."""
    for name, count in (("train", train), ("test", test)):
        rows = []
        for number in range(count):
            words, label = words_of(f"{name} {number}"), number % 2
            words.insert(len(words) // 2, random.Random(number).choice(VERDICTS[label]))
            rows.append(json.dumps({"text": " ".join(words), "label": label}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def papers(folder: Path, *, train: int = 3000, test: int = 1200) -> None:
    """Write pairs of papers as Long Range Arena's archive has them: the first one's words tell whether it cites."""
    for name, count in (("train", train), ("eval", 300), ("test", test)):
        rows = []
        for number in range(count):
            first, second = (" ".join(words_of(f"{name} {number} {each}")) for each in (1, 2))
            fields = (f"{number % 2}.0", f"P{number}", f"Q{number}", f"{first} {RELATIONS[number % 2]}", second)
            rows.append("\t".join(fields))
        (folder / f"new_aan_pairs.{name}.tsv").write_text("\n".join(rows) + "\n")


def photographs(folder: Path, *, train: int = 3000, test: int = 1500) -> None:
    """Write noisy images as CIFAR-10's binary version has them: each class is bright at a place of its own."""
    chance = np.random.default_rng(0)
    for name, count in (*((f"data_batch_{number}", train // 5) for number in range(1, 6)), ("test_batch", test)):
        classes, images = chance.integers(10, size=count), chance.integers(0, 120, size=(count, 3, 32, 32))
        for place in range(10):
            row, column = 8 * (place // 4), 8 * (place % 4)
            images[classes == place, :, row : row + 8, column : column + 8] += 60
        as_records(folder / f"{name}.bin", classes, images)


def as_records(file: Path, classes: np.ndarray, images: np.ndarray) -> None:
    """Write a byte of the class and the image's red, green and blue, each row by row, one image after the other."""
    records = np.concatenate((classes[:, None], images.reshape(len(classes), -1)), axis=1)
    file.write_bytes(records.astype(np.uint8).tobytes())


def words_of(seed: str) -> list[str]:
    return random.Random(seed).choices(NEUTRAL, k=12)


MAKERS: dict[str, Callable[[Path], None]] = {"bytes-text": reviews, "bytes-retrieval": papers, "pixels": photographs}


@functools.cache
def options_for(task: str) -> dict[str, str]:
    """Return the options with which a task reads small files; none for a task that needs no files."""
    if task not in MAKERS:
        return {}
    folder = tempfile.mkdtemp(prefix=f"{task}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    MAKERS[task](Path(folder))
    return {"path": folder}
