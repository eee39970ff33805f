"""Compression: a random sequence in one vector (MAD)."""

# N examples, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.in_context_recall import MAD


class Compression:
    """Restore a sequence from the state of its last position (Poli et al. 2024, "Mechanistic design", appendix B).

    Tokens are drawn uniformly, and a marker, the last of the vocabulary, ends the sequence. From the state of the
    marker alone a decoder of two layers, the same for every mechanism, must restore the token of every position.

    What a mechanism brings into one vector is what counts: attention averages values, and must keep their order.

    `paper` has the published baseline: vocabulary 16, 32 positions. It differs from it in the model as
    `in-context-recall` does, and the marker itself is not asked for, which everyone knows.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences; the defaults are the paper's."""

        length: Annotated[int, Meta(ge=2, description="positions, the marker included")] = 32
        vocabulary: Annotated[int, Meta(ge=3, description="tokens of the sequence, and the marker")] = 16
        causal: Annotated[bool, Meta(description="no position sees a later one, as in the paper")] = True

    presets: ClassVar = {
        "tiny": {
            "length": 16,
            "heads": 4,
            "width": 64,
            "positions": "rotary",
            "steps": 2000,
            "batch": 64,
            "learning_rate": 3e-3,
            "validate_every": 100,
            "enough": 0.99,
            "train_examples": 12_800,
            "validation_examples": 500,
            "test_examples": 500,
        },
        "small": {
            "length": 32,
            "heads": 8,
            "width": 128,
            "positions": "rotary",
            "steps": 4000,
            "batch": 64,
            "learning_rate": 1e-3,
            "rates": 3,
            "validate_every": 200,
            "enough": 0.99,
            "seeds": 3,
            "train_examples": 12_800,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "paper": {"length": 32, "vocabulary": 16, **MAD},
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        self.form = Form(
            length=options.length,
            answer="tokens",
            vocabulary=options.vocabulary,
            outputs=options.vocabulary,
            causal=options.causal,
            compressed=True,
        )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT, the tokens themselves; all splits have the same distribution."""
        del split
        marker = self.options.vocabulary - 1
        inputs_NT = torch.randint(marker, (count, self.options.length), generator=generator)
        targets_NT = inputs_NT.clone()
        inputs_NT[:, -1], targets_NT[:, -1] = marker, IGNORE
        return inputs_NT, targets_NT
