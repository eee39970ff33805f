"""A task's examples on the device, and the batches of each step; both follow from the seed alone."""

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

_Spec = tuple[torch.dtype, tuple[int, ...], int]  # dtype, size of one example, and the number of tokens; 0 for numbers


class Examples(Struct, frozen=True):
    """Inputs and targets with the shapes of the task's form, and the context where it has one."""

    inputs: Tensor
    targets: Tensor
    context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Examples":
        """Return the examples with the function applied to every tensor."""
        context = None if self.context is None else function(self.context)
        return Examples(function(self.inputs), function(self.targets), context)

    def select(self, rows_N: Tensor) -> "Examples":
        """Return the examples at these rows."""
        return self.map(itemgetter(rows_N))

    def first(self, count: int) -> "Examples":
        """Return the first `count` examples, or all if there are fewer."""
        return self.map(itemgetter(slice(count)))

    def parts(self, size: int) -> Iterator["Examples"]:
        """Yield parts of at most `size` examples, in order."""
        return (self.map(itemgetter(slice(start, start + size))) for start in range(0, len(self), size))

    def hashes(self) -> list[bytes]:
        """Return a hash of each example's input, its context included."""
        shown = [self.inputs] if self.context is None else [self.inputs, self.context]
        return [_hash(b"".join(row.numpy().tobytes() for row in rows)) for rows in zip(*shown, strict=True)]


def draw(task: Task, split: Split, count: int, generator: torch.Generator) -> Examples:
    """Draw a task's examples. Raises TypeError where they contradict its form."""
    tensors = task.examples(split, count, generator)
    names = ("inputs", "context", "targets") if task.form.context_length else ("inputs", "targets")
    if len(tensors) != len(names):
        raise TypeError(f"examples() gives {len(tensors)} tensors where its form asks for {', '.join(names)}")
    inputs, *context, targets = tensors
    drawn = Examples(inputs, targets, *context)
    _check(drawn, task.form)
    return drawn


def draw_splits(task: Task, training: Training, *, seed: int, device: str) -> dict[Split, Examples]:
    """Draw every split from the seed, without the inputs (with their contexts) that an earlier split has.

    So no test example was trained on, however few different ones a task can make.

    Raises ValueError if no answer is left to score in a split, TypeError if examples contradict the task's form.
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
        hashes = drawn.hashes()
        new = [row for row, hashed in enumerate(hashes) if hashed not in seen]
        seen.update(hashes)
        kept = drawn.select(torch.tensor(new, dtype=torch.long)) if len(new) < len(drawn) else drawn
        if not task.form.count(kept.targets):
            raise ValueError(
                f"nothing is asked in the {split} examples: {len(new)} of {len(drawn)} are in no earlier split; "
                f"lower train_examples={training.train_examples}, or choose sizes that make more different inputs"
            )
        splits[split] = kept.map(lambda tensor: tensor.to(device))
    return splits


class Batches:
    """Endless batches: every example once, in random order, before any is repeated."""

    def __init__(self, examples: Examples, size: int, *, seed: int) -> None:
        self.examples, self.size = examples, min(size, len(examples))
        self.generator = generator_of(seed, "order")
        self.waiting_N = torch.empty(0, dtype=torch.long)

    def __next__(self) -> Examples:
        if len(self.waiting_N) < self.size:  # the remainder comes first in the next epoch
            order_N = torch.randperm(len(self.examples), generator=self.generator)
            self.waiting_N = torch.cat((self.waiting_N, order_N))
        rows_N, self.waiting_N = self.waiting_N[: self.size], self.waiting_N[self.size :]
        return self.examples.select(rows_N.to(self.examples.inputs.device))

    def __iter__(self) -> Self:
        return self

    def state(self) -> dict[str, Tensor]:
        """Return the position in the order, as tensors."""
        return {"generator": self.generator.get_state(), "waiting": self.waiting_N.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a position in the order."""
        self.generator.set_state(state["generator"])
        self.waiting_N = state["waiting"]


def generator_of(seed: int, purpose: str) -> torch.Generator:
    """Return a generator that no other purpose of the same seed shares."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _check(drawn: Examples, form: Form) -> None:
    """Raise TypeError for examples that contradict the task's form."""
    specs = {"inputs": _input_spec(form.length, form.vocabulary, form.features), "targets": _target_spec(form)}
    if form.context_length:
        specs["context"] = _input_spec(form.context_length, form.context_vocabulary, form.context_features)
    for name, (dtype, size, tokens) in specs.items():
        tensor = getattr(drawn, name)
        shape = (len(drawn), *size)
        if tensor.dtype != dtype or tensor.shape != shape:
            given = f"{tensor.dtype} {list(tensor.shape)}"
            raise TypeError(f"examples() gives {name} as {given} where its form asks for {dtype} {list(shape)}")
        values = tensor[tensor != IGNORE] if name == "targets" and form.answer == "tokens" else tensor
        if tokens and values.numel() and not 0 <= int(values.min()) <= int(values.max()) < tokens:
            raise TypeError(f"examples() gives {name} outside 0..{tokens - 1}, the range of its form")


def _input_spec(length: int, vocabulary: int, features: int) -> _Spec:
    return (torch.long, (length,), vocabulary) if vocabulary else (torch.float32, (length, features), 0)


def _target_spec(form: Form) -> _Spec:
    if form.answer == "number":
        return torch.float32, (), 0
    return torch.long, (form.length,) if form.answer == "tokens" else (), form.outputs
