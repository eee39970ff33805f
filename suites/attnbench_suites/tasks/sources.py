"""Where data that is not generated comes from (a folder or the hub), and which rows of it a seed selects."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Generator


def check_source(path: str, files: Sequence[str], *, what: str) -> None:
    """Check a source without reading it. Raises ValueError if a folder lacks a file or `datasets` is missing."""
    if not path and find_spec("datasets") is None:
        raise ValueError(
            f"{what} is downloaded by the package datasets, which is not installed: "
            f"pip install 'attnbench[hub]', or give path=FOLDER with {listed(files)}"
        )
    for name in files if path else ():
        if not (Path(path) / name).is_file():
            raise ValueError(f"path={path} has no {name}; give a folder with {listed(files)}")


def listed(files: Sequence[str]) -> str:
    """Join file names with commas and an `and`."""
    return f"{', '.join(files[:-1])} and {files[-1]}"


def chosen(numbers: Sequence[int], count: int, generator: Generator) -> list[int]:
    """Return at most `count` of a split's rows, in random order."""
    return [numbers[place] for place in torch.randperm(len(numbers), generator=generator)[:count].tolist()]
