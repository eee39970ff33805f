"""Tasks, mechanisms and models so small that what they do can be worked out beside them."""

# B batch, N examples, T positions, F features, H heads, D head dimension
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnbench.contracts.task import IGNORE, Form, Split, Training
from attnbench.contracts.variant import Attention
from attnbench.train.data import Examples
from attnbench.train.model import Model

LENGTH = 6
CLASSES = Form(length=LENGTH, features=2, answer="class", outputs=3)
TOKENS = Form(length=LENGTH, vocabulary=11, answer="tokens", outputs=11)
NUMBERS = Form(length=LENGTH, features=2, answer="number")
PAIRED = Form(length=LENGTH, vocabulary=5, answer="class", outputs=3, context_length=4, context_features=2)
FORMS = {"class": CLASSES, "tokens": TOKENS, "number": NUMBERS, "paired": PAIRED}

SMALL = Training(
    width=8,
    heads=2,
    layers=2,
    steps=20,
    batch=8,
    validate_every=5,
    learning_rate=1e-2,
    train_examples=32,
    validation_examples=16,
    test_examples=16,
)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v


def model_of(
    form: Form,
    training: Training = SMALL,
    *,
    mechanism: Attention = softmax_attention,
    ties_qk: bool = False,
    seed: int = 0,
) -> Model:
    torch.manual_seed(seed)
    each = [mechanism] * training.layers
    return Model(form, training, each, crossing=each if form.context_length else (), ties_qk=ties_qk)


def examples_of(form: Form, count: int = 8, *, seed: int = 0, asked: Sequence[int] | None = None) -> Examples:
    """Draw inputs with meaningless targets; of a tokens task, example i asks at its first `asked[i]` positions."""
    generator = torch.Generator().manual_seed(seed)
    inputs = (
        torch.randint(form.vocabulary, (count, form.length), generator=generator)
        if form.vocabulary
        else torch.randn(count, form.length, form.features, generator=generator)
    )
    context = (
        torch.randn(count, form.context_length, form.context_features, generator=generator)
        if form.context_length
        else None
    )
    if form.answer == "number":
        return Examples(inputs, torch.randn(count, generator=generator), context)
    if form.answer == "class":
        return Examples(inputs, torch.randint(form.outputs, (count,), generator=generator), context)
    targets_NT = torch.randint(form.outputs, (count, form.length), generator=generator)
    for row, places in enumerate(asked or [form.length] * count):
        targets_NT[row, places:] = IGNORE
    return Examples(inputs, targets_NT, context)


class Sign:
    """Ask whether the first feature is positive on average; with `lie`, the training split says the opposite."""

    form = Form(length=LENGTH, features=1, answer="class", outputs=2)

    def __init__(self, *, lie: bool = False) -> None:
        self.lie = lie

    def examples(self, split: Split, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs_NTF = torch.randn(count, LENGTH, 1, generator=generator)
        targets_N = (inputs_NTF.mean(dim=(1, 2)) > 0).long()
        return inputs_NTF, 1 - targets_N if self.lie and split == "train" else targets_N


class Breaks(torch.nn.Module):
    """Softmax attention that gives NaN while it is trained, from call number `first` on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.calls = first, 0

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.calls += self.training
        broken = self.training and self.calls >= self.first
        return softmax_attention(q, k, v) * (float("nan") if broken else 1.0)


def weights_of(model: torch.nn.Module) -> Tensor:
    """Flatten all weights into one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def gradient_of(model: torch.nn.Module) -> Tensor:
    """Flatten the gradient of all weights into one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def silently(_text: str) -> Any:
    """Hear of a training's progress."""
