"""Draws that several tasks share."""

import torch
from torch import Generator, Tensor


def distinct(count: int, size: int, below: int, generator: Generator) -> Tensor:
    """Draw `count` rows of `size` distinct integers, each ordered choice equally likely.

    Floyd's algorithm (Bentley and Floyd 1987) on all rows at once, then a shuffle within each row.
    """
    drawn = torch.full((count, size), -1)
    for column, top in enumerate(range(below - size, below)):
        new = torch.randint(top + 1, (count, 1), generator=generator)
        drawn[:, column : column + 1] = torch.where((drawn == new).any(1, keepdim=True), top, new)
    return drawn.gather(1, torch.rand(count, size, generator=generator).argsort(1))
