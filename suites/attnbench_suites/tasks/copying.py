"""Selective copying: what is to be kept stands at random places between blanks, and is said again in its order."""

# N examples, T positions, P places before the answers, K tokens to keep
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions

BLANK = 0


class Copying:
    """Say the tokens between blanks again, in order (Gu and Dao 2023, "Mamba", section 4.1.1 and appendix E.1).

    K tokens stand at random places of a sequence that is blank elsewhere; then K markers follow, and at the k-th of
    them the model must answer with the k-th token. The blank is token 0, the marker the last of the vocabulary, and the
    tokens to keep are drawn evenly, with repetition, from those between. (Jing et al. 2019, "Gated orthogonal recurrent
    units", call it the denoising task.)

    Where the tokens are must be found from what they are, and their order by counting: a mechanism whose mixing does
    not depend on content, such as a convolution, copies at fixed distances and fails. Causal in the preset `paper`, as
    published; the other presets let every position see all others, so that mechanisms without a causal form stand in
    the table too: the markers show nothing, so what is asked stays the same.

    `paper` has the published 4096 positions, vocabulary of 16 and 16 tokens to keep, 2 layers of width 64, 400,000
    steps of batch 64 at a constant rate of 1e-4. Other than there, the 16 positions of the answers are among the 4096
    and not beyond them, blank and marker are among the 16 tokens of the vocabulary, and 100,000 examples are met again
    instead of new ones for every step.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences; the defaults are the paper's."""

        length: Annotated[int, Meta(ge=2, description="positions, those of the answers included")] = 4096
        tokens: Annotated[int, Meta(ge=1, description="tokens to keep, and to say again at the end")] = 16
        vocabulary: Annotated[int, Meta(ge=4, description="the blank, the tokens that may be kept, the marker")] = 16
        causal: Annotated[bool, Meta(description="a position sees no later one, as in the paper")] = True

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
        """Draw inputs_NT, and targets_NT that are IGNORE but at the markers. All splits are alike."""
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
