"""Selective copying: tokens scattered among blanks are repeated, in order, at the end of the sequence."""

# N examples, T positions, P positions before the answers, K tokens to copy
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions

BLANK = 0


class Copying:
    """Copy the tokens scattered among blanks, in order (Gu and Dao 2023, "Mamba", section 4.1.1 and appendix E.1).

    K tokens stand at random positions of an otherwise blank sequence. K markers follow, and at the k-th marker the
    model must answer with the k-th token. The blank is token 0, the marker is the last token of the vocabulary, and the
    tokens to copy are drawn uniformly, with repetition, from those in between. (Jing et al. 2019, "Gated orthogonal
    recurrent units", call it the denoising task.)

    The tokens must be found by content and ordered by counting: a mechanism whose mixing does not depend on content,
    such as a convolution, copies over fixed distances and fails. `paper` is causal, as published. In the other presets
    every position sees all others, so that mechanisms without a causal form can take part; the markers reveal nothing,
    so the task stays the same.

    MAD's selective copying (Poli et al. 2024, "Mechanistic design", appendix B) is this task but for its question, one
    marker followed by blanks, and for where tokens lie: `--tasks copying:preset=paper,length=256` has its baseline's
    sizes.

    `paper` has the published 4096 positions, vocabulary of 16, 16 tokens to copy, 2 layers of width 64, and 400,000
    steps of batch 64 at a constant rate of 1e-4. It differs in that the 16 answers are among the 4096 positions rather
    than after them, the blank and the marker are among the 16 tokens of the vocabulary, and 100,000 examples are reused
    instead of drawing new ones at every step.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences; the defaults are the paper's."""

        length: Annotated[int, Meta(ge=2, description="positions, including those of the answers")] = 4096
        tokens: Annotated[int, Meta(ge=1, description="tokens to copy")] = 16
        vocabulary: Annotated[int, Meta(ge=4, description="the blank, the tokens to copy from, the marker")] = 16
        causal: Annotated[bool, Meta(description="no position sees a later one, as in the paper")] = True

    presets: ClassVar = {
        "tiny": {
            "length": 32,
            "tokens": 4,
            "vocabulary": 10,
            "causal": False,
            "heads": 2,
            "width": 64,
            "steps": 800,
            "batch": 32,
            "learning_rate": 3e-3,
            "validate_every": 100,
            "enough": 0.99,
            "train_examples": 10_000,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "small": {
            "length": 128,
            "tokens": 8,
            "vocabulary": 16,
            "causal": False,
            "heads": 2,
            "width": 64,
            "steps": 2000,
            "batch": 32,
            "learning_rate": 0.002,
            "validate_every": 200,
            "enough": 0.99,
            "rates": 3,
            "seeds": 3,
            "train_examples": 50000,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "paper": {
            "length": 4096,
            "tokens": 16,
            "vocabulary": 16,
            "causal": True,
            "heads": 1,
            "width": 64,
            "steps": 400_000,
            "batch": 64,
            "learning_rate": 1e-4,
            "warmup": 0.0,
            "decay": "none",
            "validate_every": 2000,
            "rates": 4,
            "seeds": 5,
            "train_examples": 100_000,
            "validation_examples": 1000,
            "test_examples": 1000,
        },
    }

    def __init__(self, options: Options) -> None:
        if options.length < 2 * options.tokens:
            raise ValueError(
                f"length={options.length} has no room to show tokens={options.tokens} and to answer; "
                "use twice as many or more"
            )
        self.options = options
        self.form = Form(
            length=options.length,
            answer="tokens",
            vocabulary=options.vocabulary,
            outputs=options.vocabulary,
            causal=options.causal,
        )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE except at the markers); all splits have the same distribution."""
        del split
        options, kept = self.options, self.options.tokens
        marker, places = options.vocabulary - 1, options.length - kept
        tokens_NK = torch.randint(1, marker, (count, kept), generator=generator)
        places_NK = torch.rand(count, places, generator=generator).topk(kept, dim=1).indices.sort(dim=1).values
        inputs_NT = torch.full((count, options.length), BLANK)
        targets_NT = torch.full((count, options.length), IGNORE)
        inputs_NT.scatter_(1, places_NK, tokens_NK)[:, places:] = marker
        targets_NT[:, places:] = tokens_NK
        return inputs_NT, targets_NT
