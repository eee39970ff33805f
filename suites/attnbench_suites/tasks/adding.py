"""The adding problem: two numbers of a long sequence are marked, and their sum is the target."""

# N examples, T positions, F features: a number and its mark
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions


class Adding:
    """Add the two marked numbers of a sequence (Hochreiter and Schmidhuber 1997, section 5.4).

    As posed by Le et al. (2015, "A simple way to initialize recurrent networks of rectified linear units", section
    4.1): every position has a number drawn uniformly between 0 and 1, and a mark that is 1 at two random positions and
    0 elsewhere; the target is the sum of the two marked numbers. The loss is the squared error, which is 1/6 for always
    answering 1. An answer counts as right within 0.04, as in 1997.

    Causal: the answer is read from the last position, so attention must carry the marked numbers there. With
    `causal=false` it is read from the mean of all positions, to which each can add its own number, so that no mechanism
    is put to the test.

    `paper` has the longest sequences of Le et al., 400, with their 100,000 training and 10,000 test examples; the model
    is ours. In 1997 numbers were between -1 and 1, the sum was scaled to between 0 and 1, lengths varied by a tenth,
    the first number was among the first ten and the second in the first half, and both ends were marked with -1.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Size of the sequences; the defaults are the paper's."""

        length: Annotated[int, Meta(ge=2, description="numbers in a sequence")] = 400
        causal: Annotated[bool, Meta(description="no position sees a later one, and the last one answers")] = True

    presets: ClassVar = {
        "tiny": {
            "length": 64,
            "heads": 2,
            "width": 32,
            "steps": 700,
            "batch": 32,
            "learning_rate": 3e-3,
            "validate_every": 100,
            "train_examples": 10_000,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "small": {
            "length": 200,
            "heads": 2,
            "width": 64,
            "steps": 2000,
            "batch": 32,
            "learning_rate": 0.002,
            "validate_every": 200,
            "rates": 3,
            "seeds": 3,
            "train_examples": 50000,
            "validation_examples": 1000,
            "test_examples": 2000,
        },
        "paper": {
            "length": 400,
            "heads": 4,
            "width": 128,
            "steps": 20_000,
            "batch": 64,
            "learning_rate": 1e-3,
            "validate_every": 500,
            "rates": 4,
            "seeds": 5,
            "train_examples": 100_000,
            "validation_examples": 10_000,
            "test_examples": 10_000,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        self.form = Form(length=options.length, answer="number", features=2, causal=options.causal)

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NTF and targets_N; all splits have the same distribution."""
        del split
        numbers_NT = torch.rand(count, self.options.length, generator=generator)
        marked_N2 = torch.rand(count, self.options.length, generator=generator).topk(2, dim=1).indices
        marks_NT = torch.zeros_like(numbers_NT).scatter_(1, marked_N2, 1.0)
        return torch.stack((numbers_NT, marks_NT), dim=-1), numbers_NT.gather(1, marked_N2).sum(1)
