"""Memorization: values that only the weights can hold (MAD)."""

# N examples, P keys in a sequence, K different keys, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.in_context_recall import MAD


class Memorization:
    """Give the value of each key from memory (Poli et al. 2024, "Mechanistic design", appendix B).

    Every key has one value in all sequences, training and test alike, which no sequence shows. A sequence is keys drawn
    uniformly, each followed by the same marker, and at the marker the model must answer with the value of the key just
    before. Keys are the lower half of the vocabulary, values the upper, the marker is its last token.

    The facts must go into weights, mostly those of the feed-forward, and mixing need only look one position back: a low
    score means that a mechanism blurs neighbours.

    `paper` has the published baseline: vocabulary 256, 32 positions, 256 training examples. It differs from it in the
    model as `in-context-recall` does, and its steps are as many as there, not 200 epochs of 256 examples.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences, and which facts there are; the defaults are the paper's."""

        length: Annotated[int, Meta(ge=2, multiple_of=2, description="positions: keys and markers in turn")] = 32
        vocabulary: Annotated[int, Meta(ge=5, description="keys (lower half), values (upper half), the marker")] = 256
        facts: Annotated[int, Meta(ge=0, description="seed of the values; the same for all seeds of a training")] = 0
        causal: Annotated[bool, Meta(description="no position sees a later one, as in the paper")] = True

    presets: ClassVar = {
        "tiny": {
            "length": 32,
            "vocabulary": 256,
            "heads": 2,
            "width": 64,
            "positions": "rotary",
            "steps": 200,
            "batch": 32,
            "learning_rate": 3e-3,
            "validate_every": 20,
            "enough": 0.99,
            "train_examples": 256,
            "validation_examples": 128,
            "test_examples": 256,
        },
        "small": {
            "length": 32,
            "vocabulary": 1024,
            "heads": 2,
            "width": 64,
            "positions": "rotary",
            "steps": 1500,
            "batch": 64,
            "learning_rate": 3e-3,
            "rates": 3,
            "validate_every": 100,
            "enough": 0.99,
            "seeds": 3,
            "train_examples": 2000,
            "validation_examples": 256,
            "test_examples": 512,
        },
        "paper": {"length": 32, "vocabulary": 256, **MAD, "train_examples": 256},
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        self.marker = options.vocabulary - 1
        keys = self.marker // 2
        chosen_V = torch.randperm(self.marker - keys, generator=Generator().manual_seed(options.facts))
        self.values_K = keys + chosen_V[:keys]
        self.form = Form(
            length=options.length,
            answer="tokens",
            vocabulary=options.vocabulary,
            outputs=options.vocabulary,
            causal=options.causal,
        )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE except at markers); all splits have the same distribution and facts."""
        del split
        keys_NP = torch.randint(len(self.values_K), (count, self.options.length // 2), generator=generator)
        inputs_NT = torch.stack((keys_NP, torch.full_like(keys_NP, self.marker)), dim=2).flatten(1)
        targets_NT = torch.stack((torch.full_like(keys_NP, IGNORE), self.values_K[keys_NP]), dim=2).flatten(1)
        return inputs_NT, targets_NT
