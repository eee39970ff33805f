"""A task's examples on the device, and which of them make the batch of a step: all of it follows from the seed."""

# N examples, T positions, F features
from collections.abc import Iterator

import torch
from msgspec import Struct
from torch import Tensor

from attnbench.case import seed_for
from attnbench.task import IGNORE, Form, Split, Task, Training


class Examples(Struct, frozen=True):
    """Inputs and targets of a split, shaped as the task's form says."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, rows_N: Tensor) -> "Examples":
        """Give some of them."""
        return Examples(self.inputs[rows_N], self.targets[rows_N])

    def first(self, count: int) -> "Examples":
        """Give the first of them, all where there are fewer."""
        return Examples(self.inputs[:count], self.targets[:count])

    def parts(self, size: int) -> Iterator["Examples"]:
        """Cut them into parts of at most `size`, in their order."""
        return (Examples(*pair) for pair in zip(self.inputs.split(size), self.targets.split(size), strict=True))


def draw_splits(task: Task, training: Training, *, seed: int, device: str) -> dict[Split, Examples]:
    """Draw every split from the seed; an input that an earlier split has is left out of the later ones.

    So no example that is tested was trained on, however few different ones a task can make.

    Raises ValueError where nothing is left to ask in a split, TypeError where examples are not as the task's form says.
    """
    counts: dict[Split, int] = {
        "train": training.train_examples,
        "validation": training.validation_examples,
        "test": training.test_examples,
    }
    seen: set[bytes] = set()
    splits: dict[Split, Examples] = {}
    for split, count in counts.items():
        drawn = Examples(*task.examples(split, count, generator_of(seed, split)))
        _check(drawn, task.form)
        keys = [row.numpy().tobytes() for row in drawn.inputs]
        new = [row for row, key in enumerate(keys) if key not in seen]
        seen.update(keys)
        kept = drawn.at(torch.tensor(new, dtype=torch.long)) if len(new) < len(drawn) else drawn
        if not task.form.count(kept.targets):
            raise ValueError(
                f"nothing is asked in the {split} examples: {len(new)} of {len(drawn)} are in no earlier split; "
                f"lower train_examples={training.train_examples}, or choose sizes that make more different inputs"
            )
        splits[split] = Examples(kept.inputs.to(device), kept.targets.to(device))
    return splits


def batches(examples: Examples, size: int, *, seed: int) -> Iterator[Examples]:
    """Give batches without end: every example once, in an order of its own, before any comes again."""
    generator = generator_of(seed, "order")
    size = min(size, len(examples))
    waiting_N = torch.empty(0, dtype=torch.long)
    while True:
        waiting_N = torch.cat((waiting_N, torch.randperm(len(examples), generator=generator)))
        while len(waiting_N) >= size:  # what is left over goes first in the next epoch
            rows_N, waiting_N = waiting_N[:size], waiting_N[size:]
            yield examples.at(rows_N.to(examples.inputs.device))


def generator_of(seed: int, purpose: str) -> torch.Generator:
    """Make a random stream that no other purpose of the same seed shares."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


def _check(drawn: Examples, form: Form) -> None:
    """Hold a task's examples against its form. Raises TypeError."""
    numbers = (torch.float32, (form.length, form.features), None)
    inputs = (torch.long, (form.length,), form.vocabulary) if form.vocabulary else numbers
    each = (form.length,) if form.answer == "tokens" else ()
    targets = (torch.float32, each, None) if form.answer == "number" else (torch.long, each, form.outputs)
    for name, (dtype, size, below) in {"inputs": inputs, "targets": targets}.items():
        tensor = getattr(drawn, name)
        due = (len(drawn), *size)
        if tensor.dtype != dtype or tensor.shape != due:
            given = f"{tensor.dtype} {list(tensor.shape)}"
            raise TypeError(f"examples() gives {name} as {given} where its form asks for {dtype} {list(due)}")
        known = tensor[tensor != IGNORE] if name == "targets" and form.answer == "tokens" else tensor
        if below and known.numel() and not 0 <= int(known.min()) <= int(known.max()) < below:
            raise TypeError(f"examples() gives {name} outside 0..{below - 1}, the range of its form")
