"""Multi-query associative recall: look up the values of many keys in one sequence (Zoology)."""

# N examples, P key-value pairs, T positions, W positions that can hold a query
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.drawing import distinct

BLANK = 0


class Mqar:
    """Recall the value of each queried key (Arora et al. 2023, "Zoology", section 3 and appendix E).

    A sequence begins with P pairs: a key, then its value. Each key occurs once more later, alone, after a gap g drawn
    with weight g^(power - 1), so that short gaps are likelier; there the model must answer with the key's value. All
    other positions are blank. Keys come from the lower half of the vocabulary and values from the upper half, without
    repetition within a sequence.

    Attention looks the key up; a mechanism with a state of fixed size must hold all pairs in it. `large` and
    `recall` are causal, as published. In `tiny` and `small` every position sees all others, so that mechanisms without
    a causal form can take part; a value is shown in its own pair only, there too.

    `large` has the sizes of the longest configuration that the paper's code runs for figure 2 (256 tokens;
    zoology/experiments/iclr24_zoology_figure2/configs.py): 2 layers, 1 head, no feed-forward block, tied output,
    100,000 examples for 64 epochs. It differs in that weights are selected on validation examples rather than on the
    test set, and the rate decays by step rather than by epoch.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences; the defaults are the paper's."""

        length: Annotated[int, Meta(ge=4, description="tokens in a sequence")] = 64
        pairs: Annotated[int, Meta(ge=1, description="key-value pairs, each queried once")] = 4
        vocabulary: Annotated[int, Meta(ge=4, description="the blank, keys (lower half), values (upper half)")] = 8192
        power: Annotated[float, Meta(gt=0, description="a gap g has weight g^(power - 1); 1 is uniform")] = 0.01
        causal: Annotated[bool, Meta(description="no position sees a later one, as in the paper")] = True
        mixed: Annotated[
            bool, Meta(description="training examples hold from 1 to all pairs: few are learned first")
        ] = False

    renamed: ClassVar = {"paper": "large"}
    presets: ClassVar = {
        "recall": {
            "length": 128,
            "pairs": 16,
            "vocabulary": 128,
            "causal": True,
            "mixed": True,
            "heads": 2,
            "width": 64,
            "feed_forward": 0.0,
            "tied": True,
            "steps": 2000,
            "batch": 64,
            "learning_rate": 2e-3,
            "beta2": 0.95,
            "validate_every": 50,
            "enough": 0.99,
            "seeds": 3,
            "train_examples": 20_000,
            "validation_examples": 256,
            "test_examples": 512,
        },
        "tiny": {
            "length": 32,
            "pairs": 4,
            "vocabulary": 64,
            "causal": False,
            "heads": 1,
            "width": 64,
            "feed_forward": 0.0,
            "tied": True,
            "steps": 2000,
            "batch": 64,
            "learning_rate": 4e-3,
            "beta2": 0.95,
            "validate_every": 50,
            "enough": 0.99,
            "train_examples": 4000,
            "validation_examples": 512,
            "test_examples": 512,
        },
        "small": {
            "length": 64,
            "pairs": 8,
            "vocabulary": 256,
            "causal": False,
            "heads": 1,
            "width": 64,
            "feed_forward": 0.0,
            "tied": True,
            "steps": 3000,
            "batch": 64,
            "learning_rate": 0.003,
            "rates": 3,
            "beta2": 0.95,
            "validate_every": 100,
            "enough": 0.99,
            "seeds": 3,
            "train_examples": 20000,
            "validation_examples": 512,
            "test_examples": 1024,
        },
        "large": {
            "length": 256,
            "pairs": 16,
            "vocabulary": 8192,
            "causal": True,
            "heads": 1,
            "width": 128,
            "feed_forward": 0.0,
            "tied": True,
            "dropout": 0.1,
            "weight_dropout": 0.1,
            "steps": 25_024,
            "batch": 256,
            "learning_rate": 1e-3,
            "rates": 4,
            "warmup": 0.0,
            "weight_decay": 0.1,
            "clip": 0.0,
            "validate_every": 391,
            "seeds": 5,
            "train_examples": 100_000,
            "validation_examples": 3000,
            "test_examples": 3000,
        },
    }

    def __init__(self, options: Options) -> None:
        room = (options.length - 2 * options.pairs) // 2
        if room < options.pairs:
            raise ValueError(
                f"length={options.length} has no room to ask for pairs={options.pairs}; use 4 times as many"
            )
        if options.vocabulary // 2 <= options.pairs:
            raise ValueError(f"vocabulary={options.vocabulary} has too few keys for pairs={options.pairs}")
        self.options = options
        self.form = Form(
            length=options.length,
            answer="tokens",
            vocabulary=options.vocabulary,
            outputs=options.vocabulary,
            causal=options.causal,
        )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE where no key is queried).

        All splits have the same distribution, but for training examples that are mixed: a quarter of these holds all
        pairs, the others from 1 to all, each number equally likely; the pairs that are left out are blank.
        """
        options, pairs = self.options, self.options.pairs
        half = options.vocabulary // 2
        keys_NP = 1 + distinct(count, pairs, half - 1, generator)
        values_NP = half + distinct(count, pairs, options.vocabulary - half, generator)
        gaps_W = torch.arange(1, (options.length - 2 * pairs) // 2 + 1, dtype=torch.float64)
        places_NP = torch.multinomial((gaps_W ** (options.power - 1)).expand(count, -1), pairs, generator=generator)
        inputs_NT = torch.full((count, options.length), BLANK)
        targets_NT = torch.full((count, options.length), IGNORE)
        inputs_NT[:, 0 : 2 * pairs : 2] = keys_NP
        inputs_NT[:, 1 : 2 * pairs : 2] = values_NP
        asked_NP = 2 * pairs + 2 * places_NP
        inputs_NT.scatter_(1, asked_NP, keys_NP)
        targets_NT.scatter_(1, asked_NP, values_NP)
        if options.mixed and split == "train":
            held_N1 = torch.randint(1, pairs + 1, (count, 1), generator=generator)
            held_N1[: count // 4] = pairs
            left_out_NP = torch.arange(pairs) >= held_N1
            for places in (torch.arange(0, 2 * pairs, 2).expand(count, -1), asked_NP):
                _blank(inputs_NT, places, left_out_NP)
            _blank(inputs_NT, torch.arange(1, 2 * pairs, 2).expand(count, -1), left_out_NP)
            targets_NT.scatter_(1, asked_NP, torch.where(left_out_NP, IGNORE, values_NP))
        return inputs_NT, targets_NT


def _blank(inputs_NT: Tensor, places_NP: Tensor, left_out_NP: Tensor) -> None:
    """Blank some of the places of each row, in place."""
    kept_NP = inputs_NT.gather(1, places_NP)
    inputs_NT.scatter_(1, places_NP, torch.where(left_out_NP, BLANK, kept_NP))
