"""A task's examples on the device, and which of them make the batch of a step: all of it follows from the seed."""

# N examples, T positions, F features
import hashlib
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Self

import torch
from msgspec import Struct
from torch import Tensor

from attnbench.contracts.case import seed_for
from attnbench.contracts.task import IGNORE, Form, Split, Task, Training

_Due = tuple[torch.dtype, tuple[int, ...], int]  # dtype, size of one example, and what tokens stay below, if anything


class Examples(Struct, frozen=True):
    """Inputs and targets of a split, shaped as the task's form says, and the second sequence where it has one."""

    inputs: Tensor
    targets: Tensor
    context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Examples":
        """Give them with every tensor changed alike."""
        context = None if self.context is None else change(self.context)
        return Examples(change(self.inputs), change(self.targets), context)

    def at(self, rows_N: Tensor) -> "Examples":
        """Give some of them."""
        return self.each(itemgetter(rows_N))

    def first(self, count: int) -> "Examples":
        """Give the first of them, all where there are fewer."""
        return self.each(itemgetter(slice(count)))

    def parts(self, size: int) -> Iterator["Examples"]:
        """Cut them into parts of at most `size`, in their order."""
        return (self.each(itemgetter(slice(start, start + size))) for start in range(0, len(self), size))

    def keys(self) -> list[bytes]:
        """Give a hash of what a model is shown of each."""
        shown = [self.inputs] if self.context is None else [self.inputs, self.context]
        return [_hash(b"".join(row.numpy().tobytes() for row in rows)) for rows in zip(*shown, strict=True)]


def draw(task: Task, split: Split, count: int, generator: torch.Generator) -> Examples:
    """Draw a task's examples. Raises TypeError where they are not as its form says."""
    given = task.examples(split, count, generator)
    due = ("inputs", "context", "targets") if task.form.context_length else ("inputs", "targets")
    if len(given) != len(due):
        raise TypeError(f"examples() gives {len(given)} tensors where its form asks for {', '.join(due)}")
    inputs, *context, targets = given
    drawn = Examples(inputs, targets, *context)
    _check(drawn, task.form)
    return drawn


def draw_splits(task: Task, training: Training, *, seed: int, device: str) -> dict[Split, Examples]:
    """Draw every split from the seed; an input that an earlier split has is left out of the later ones.

    So no example that is tested was trained on, however few different ones a task can make. An input is what a model is
    shown, its context included.

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
        drawn = draw(task, split, count, generator_of(seed, split))
        keys = drawn.keys()
        new = [row for row, key in enumerate(keys) if key not in seen]
        seen.update(keys)
        kept = drawn.at(torch.tensor(new, dtype=torch.long)) if len(new) < len(drawn) else drawn
        if not task.form.count(kept.targets):
            raise ValueError(
                f"nothing is asked in the {split} examples: {len(new)} of {len(drawn)} are in no earlier split; "
                f"lower train_examples={training.train_examples}, or choose sizes that make more different inputs"
            )
        splits[split] = kept.each(lambda tensor: tensor.to(device))
    return splits


class Batches:
    """Batches without end: every example once, in an order of its own, before any comes again."""

    def __init__(self, examples: Examples, size: int, *, seed: int) -> None:
        self.examples, self.size = examples, min(size, len(examples))
        self.generator = generator_of(seed, "order")
        self.waiting_N = torch.empty(0, dtype=torch.long)

    def __next__(self) -> Examples:
        if len(self.waiting_N) < self.size:  # what is left over goes first in the next epoch
            order_N = torch.randperm(len(self.examples), generator=self.generator)
            self.waiting_N = torch.cat((self.waiting_N, order_N))
        rows_N, self.waiting_N = self.waiting_N[: self.size], self.waiting_N[self.size :]
        return self.examples.at(rows_N.to(self.examples.inputs.device))

    def __iter__(self) -> Self:
        return self

    def state(self) -> dict[str, Tensor]:
        """Give the place in the order, as tensors."""
        return {"generator": self.generator.get_state(), "waiting": self.waiting_N.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a place in the order."""
        self.generator.set_state(state["generator"])
        self.waiting_N = state["waiting"]


def generator_of(seed: int, purpose: str) -> torch.Generator:
    """Make a random stream that no other purpose of the same seed shares."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _check(drawn: Examples, form: Form) -> None:
    """Hold a task's examples against its form. Raises TypeError."""
    due = {"inputs": _shown(form.length, form.vocabulary, form.features), "targets": _asked(form)}
    if form.context_length:
        due["context"] = _shown(form.context_length, form.context_vocabulary, form.context_features)
    for name, (dtype, size, below) in due.items():
        tensor = getattr(drawn, name)
        whole = (len(drawn), *size)
        if tensor.dtype != dtype or tensor.shape != whole:
            given = f"{tensor.dtype} {list(tensor.shape)}"
            raise TypeError(f"examples() gives {name} as {given} where its form asks for {dtype} {list(whole)}")
        known = tensor[tensor != IGNORE] if name == "targets" and form.answer == "tokens" else tensor
        if below and known.numel() and not 0 <= int(known.min()) <= int(known.max()) < below:
            raise TypeError(f"examples() gives {name} outside 0..{below - 1}, the range of its form")


def _shown(length: int, vocabulary: int, features: int) -> _Due:
    return (torch.long, (length,), vocabulary) if vocabulary else (torch.float32, (length, features), 0)


def _asked(form: Form) -> _Due:
    if form.answer == "number":
        return torch.float32, (), 0
    return torch.long, (form.length,) if form.answer == "tokens" else (), form.outputs
