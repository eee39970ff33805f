"""In-context recall: predict the value of every key that has come before (MAD)."""

# N examples, P pairs of a key and its value, K different keys, T positions
from typing import Annotated, ClassVar, Self

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions

# The model and training of MAD's baselines (athms/mad-lab, `mad/configs.py`): two layers of 16 heads of width 128, 200
# epochs in batches of 128.
MAD = {
    "layers": 2,
    "heads": 16,
    "width": 128,
    "positions": "rotary",
    "steps": 20_000,
    "batch": 128,
    "learning_rate": 5e-4,
    "rates": 4,
    "warmup": 0.0,
    "validate_every": 500,
    "seeds": 5,
    "train_examples": 12_800,
    "validation_examples": 1280,
    "test_examples": 1280,
}


class InContextRecall:
    """Predict the value of each key seen before (Poli et al. 2024, "Mechanistic design", appendix B).

    A sequence is key, value, key, value, ... Each key is drawn uniformly, and within a sequence a key always has the
    same value, drawn uniformly for that sequence. Wherever a key comes again the model must answer with its value, the
    next token; the last pair is always such a one. Keys are the lower half of the vocabulary, values the upper.

    Attention finds the earlier pair; a state of fixed size must hold every pair. Always causal: the answer is the next
    token.

    `paper` has the published baseline (vocabulary 16, 128 tokens, of which the last is only an answer; 12,800 training
    examples, 200 epochs). It differs in that only the values that can be known are trained on, where the authors train
    on every next token; in its feed-forward (GELU for SwiGLU) and norm (LayerNorm for RMSNorm); and in that it searches
    four rates without weight decay, where theirs is three rates by two decays.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences; the defaults are the paper's."""

        length: Annotated[int, Meta(ge=4, multiple_of=2, description="tokens of the pairs; the last is an answer")] = (
            128
        )
        vocabulary: Annotated[int, Meta(ge=4, description="keys (lower half), values (upper half), then noise")] = 16
        noise_vocabulary: Annotated[int, Meta(ge=0, description="tokens of the vocabulary that are noise")] = 0
        noise: Annotated[float, Meta(ge=0, lt=1, description="share of the pairs that are replaced by noise")] = 0.0

    presets: ClassVar = {
        "tiny": {
            "length": 64,
            "heads": 2,
            "width": 64,
            "positions": "rotary",
            "steps": 1000,
            "batch": 64,
            "learning_rate": 3e-3,
            "validate_every": 50,
            "enough": 0.99,
            "beyond": 4,
            "train_examples": 12_800,
            "validation_examples": 500,
            "test_examples": 500,
        },
        "small": {
            "length": 128,
            "heads": 4,
            "width": 128,
            "positions": "rotary",
            "steps": 2000,
            "batch": 64,
            "learning_rate": 1e-3,
            "rates": 3,
            "validate_every": 100,
            "enough": 0.99,
            "beyond": 4,
            "seeds": 3,
            "train_examples": 12_800,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "paper": {"length": 128, "vocabulary": 16, "beyond": 8, **MAD},
    }

    def __init__(self, options: Options) -> None:
        self.noisy_from = options.vocabulary - options.noise_vocabulary
        self.keys = self.noisy_from // 2
        if self.keys < 2:
            raise ValueError(
                f"noise_vocabulary={options.noise_vocabulary} leaves too few keys and values of "
                f"vocabulary={options.vocabulary}; leave 4 or more"
            )
        if options.noise and not options.noise_vocabulary:
            raise ValueError(f"noise={options.noise} has no tokens to draw from; set noise_vocabulary")
        self.options = options
        self.form = Form(
            length=options.length - 1,
            answer="tokens",
            vocabulary=options.vocabulary,
            outputs=options.vocabulary,
            causal=True,
        )

    def longer(self, factor: int) -> Self:
        """Return the task with `factor` times as many pairs of the same keys."""
        return type(self)(replace(self.options, length=factor * self.options.length))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE but at keys seen before); all splits have the same distribution."""
        del split
        pairs = self.options.length // 2
        keys_NP = torch.randint(self.keys, (count, pairs), generator=generator)
        values_NK = torch.randint(self.keys, self.noisy_from, (count, self.keys), generator=generator)
        noise_NP = torch.rand(count, pairs, generator=generator) < self.options.noise
        kept_N1 = torch.randint(pairs - 1, (count, 1), generator=generator)  # a pair that the last can repeat
        noise_NP.scatter_(1, kept_N1, value=False)[:, -1] = False
        # The last key is one of the sequence's: that of a pair drawn from those that are no noise.
        chances_NP = (~noise_NP[:, :-1]).double()
        keys_NP[:, -1:] = keys_NP.gather(1, torch.multinomial(chances_NP, 1, generator=generator))
        tokens_NP2 = torch.stack((keys_NP, values_NK.gather(1, keys_NP)), dim=2)
        if self.options.noise:
            drawn_NP2 = torch.randint(self.noisy_from, self.options.vocabulary, tokens_NP2.shape, generator=generator)
            tokens_NP2 = torch.where(noise_NP[:, :, None], drawn_NP2, tokens_NP2)
        targets_NP2 = torch.full_like(tokens_NP2, IGNORE)
        targets_NP2[:, :, 0] = torch.where(_seen_before(tokens_NP2[:, :, 0]) & ~noise_NP, tokens_NP2[:, :, 1], IGNORE)
        return tokens_NP2.flatten(1)[:, :-1], targets_NP2.flatten(1)[:, :-1]


def _seen_before(keys_NP: Tensor) -> Tensor:
    """Return whether the same key stands at an earlier place of its row."""
    order_NP = keys_NP.argsort(dim=1, stable=True)
    sorted_NP = keys_NP.gather(1, order_NP)
    repeats_NP = torch.zeros_like(keys_NP, dtype=torch.bool)
    repeats_NP[:, 1:] = sorted_NP[:, 1:] == sorted_NP[:, :-1]
    return torch.zeros_like(repeats_NP).scatter_(1, order_NP, repeats_NP)
