"""A task that says all that it may say, and whose answer is a number."""

from typing import Annotated, ClassVar

import torch
from msgspec import Meta

from attnbench import Form, Options


class Total:
    """Add up the numbers of a sequence.

    And more words than a list has room for.
    """

    class Options(Options):
        length: Annotated[int, Meta(ge=1, description="numbers of a sequence")] = 4
        noise: float = 0.0
        unit: str | None = None
        signed: bool = False

    presets: ClassVar = {
        "tiny": {
            "width": 16,
            "heads": 1,
            "layers": 1,
            "steps": 300,
            "batch": 32,
            "learning_rate": 1e-2,
            "train_examples": 1000,
            "validation_examples": 100,
            "test_examples": 200,
            "validate_every": 50,
        },
        "long": {"length": 400, "positions": "rotary", "seeds": 5},
    }

    def __init__(self, options):
        if options.noise > options.length:
            raise ValueError(
                f"noise={options.noise} would drown length={options.length} numbers; at most {options.length}"
            )
        self.options = options
        self.form = Form(length=options.length, features=1, answer="number", tolerance=0.2)

    def examples(self, split, count, generator):
        inputs_NTF = torch.rand(count, self.options.length, 1, generator=generator) - 0.5 * self.options.signed
        return inputs_NTF, inputs_NTF.sum(dim=(1, 2))
