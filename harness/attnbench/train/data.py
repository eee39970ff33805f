"""A task's examples on the device, and which of them make the batch of a step: all of it follows from the seed."""

# N examples, T positions, F features
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attnbench.case import digest
from attnbench.task import Split, Task, Training

_SEEN_FIRST: tuple[Split, ...] = ("train", "validation", "test")


class Examples(NamedTuple):
    """Inputs and targets of a split, shaped as the task's form says."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, rows_N: Tensor) -> "Examples":
        """Give some of them."""
        return Examples(self.inputs[rows_N], self.targets[rows_N])

    def parts(self, size: int) -> Iterator["Examples"]:
        """Cut them into parts of at most `size`, in their order."""
        return (Examples(*pair) for pair in zip(self.inputs.split(size), self.targets.split(size), strict=True))


def draw_splits(task: Task, training: Training, *, seed: int, device: str) -> dict[Split, Examples]:
    """Draw every split from the seed; an input that an earlier split has is left out of the later ones.

    So no example that is tested was trained on, however few different ones a task can make.
    """
    counts = {
        "train": training.train_examples,
        "validation": training.validation_examples,
        "test": training.test_examples,
    }
    seen: set[bytes] = set()
    splits: dict[Split, Examples] = {}
    for split in _SEEN_FIRST:
        drawn = Examples(*task.examples(split, counts[split], generator_of(seed, split)))
        keys = [row.numpy().tobytes() for row in drawn.inputs]
        new = torch.tensor([row for row, key in enumerate(keys) if key not in seen], dtype=torch.long)
        seen.update(keys)
        kept = drawn.at(new) if len(new) < len(drawn) else drawn
        splits[split] = Examples(kept.inputs.to(device), kept.targets.to(device))
    return splits


def batches(examples: Examples, size: int, *, seed: int) -> Iterator[Examples]:
    """Give batches without end: every example once, in an order of its own, before any comes again."""
    generator = generator_of(seed, "order")
    size = min(size, len(examples))
    while True:
        order_N = torch.randperm(len(examples), generator=generator).to(examples.inputs.device)
        for rows in order_N.split(size):
            if len(rows) == size:  # what is left over would be a smaller batch; it comes in another epoch
                yield examples.at(rows)


def generator_of(seed: int, purpose: str) -> torch.Generator:
    """Make a random stream that no other purpose of the same seed shares."""
    return torch.Generator().manual_seed(int(digest(seed, purpose), 16) % 2**63)
