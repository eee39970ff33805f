"""Needle in a haystack: retrieve one short fact from any depth of a long context."""

# N examples, T positions, M needles, S slots that can hold a needle
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions


class Needle:
    """Retrieve the value of a key from any depth of a long context (Hsieh et al. 2024, "RULER", section 3).

    The haystack is words drawn uniformly. M needles lie in it, each a key followed by its value; no key occurs twice.
    The last position repeats one of the keys, and there the model must answer with that key's value. The presets have
    one needle, which only has to be told from the hay. With several, only the key tells the queried needle from the
    others, which takes far longer to learn.

    `depth` measures how accuracy depends on position: it puts the queried needle of the test examples at that
    percentage of the way from the first possible slot to the last. Training and validation use all depths whatever its
    value, so `--tasks needle:depth=0,needle:depth=50,needle:depth=100` tests the same weights three times. A range of
    `length` measures accuracy by length.

    Kamradt (2023, "Needle in a haystack") hid a sentence in essays and queried a language model; Mohtashami and Jaggi
    (2023, "Landmark attention", section 4.2) hid a pass key; RULER hides keys and values (words, numbers or UUIDs) in
    essays or noise, at 4096 tokens and more. Here everything is a token of one vocabulary, so that a model of two
    layers can be trained from scratch. `paper` has RULER's shortest context; the model is ours.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences, and where the test looks."""

        length: Annotated[int, Meta(ge=3, description="tokens in a sequence, including the question")] = 4096
        needles: Annotated[int, Meta(ge=1, description="key-value pairs in the haystack; one of them is queried")] = 1
        keys: Annotated[int, Meta(ge=1, description="number of different keys")] = 64
        values: Annotated[int, Meta(ge=2, description="number of different values")] = 64
        words: Annotated[int, Meta(ge=1, description="number of different words in the haystack")] = 64
        depth: Annotated[
            Annotated[int, Meta(ge=0, le=100)] | None,
            Meta(description="percent of the context before the queried needle in test examples; none: any"),
        ] = None
        causal: Annotated[bool, Meta(description="no position sees a later one")] = True

    presets: ClassVar = {
        "tiny": {
            "length": 128,
            "needles": 1,
            "keys": 16,
            "values": 16,
            "words": 16,
            "causal": False,
            "heads": 2,
            "width": 64,
            "steps": 300,
            "batch": 32,
            "learning_rate": 3e-3,
            "validate_every": 50,
            "enough": 0.99,
            "train_examples": 10_000,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "small": {
            "length": 256,
            "needles": 1,
            "keys": 32,
            "values": 32,
            "words": 32,
            "causal": False,
            "heads": 2,
            "width": 64,
            "steps": 1000,
            "batch": 32,
            "learning_rate": 0.002,
            "validate_every": 200,
            "enough": 0.99,
            "rates": 3,
            "seeds": 3,
            "train_examples": 50000,
            "validation_examples": 500,
            "test_examples": 2000,
        },
        "paper": {
            "length": 4096,
            "needles": 1,
            "keys": 64,
            "values": 64,
            "words": 64,
            "causal": True,
            "heads": 4,
            "width": 128,
            "positions": "rotary",
            "steps": 20_000,
            "batch": 32,
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "validate_every": 500,
            "rates": 4,
            "seeds": 5,
            "train_examples": 100_000,
            "validation_examples": 1000,
            "test_examples": 2000,
        },
    }

    def __init__(self, options: Options) -> None:
        self.slots = (options.length - 1) // 2
        if options.needles > self.slots:
            raise ValueError(
                f"length={options.length} has no room for needles={options.needles}; "
                f"use {2 * options.needles + 1} or more"
            )
        if options.needles > options.keys:
            raise ValueError(f"keys={options.keys} are too few for needles={options.needles} of different keys")
        self.options = options
        tokens = options.words + options.keys + options.values
        self.form = Form(
            length=options.length, answer="tokens", vocabulary=tokens, outputs=tokens, causal=options.causal
        )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE except at the last position); `depth` fixes the test's needle."""
        options = self.options
        inputs_NT = torch.randint(options.words, (count, options.length), generator=generator)
        keys_NM = options.words + torch.rand(count, options.keys, generator=generator).argsort(1)[:, : options.needles]
        slots_NS = torch.rand(count, self.slots, generator=generator)
        if split == "test" and options.depth is not None:
            slots_NS[:, round(options.depth / 100 * (self.slots - 1))] = -1.0  # sorts first: the queried needle's slot
        places_NM = 2 * slots_NS.argsort(1)[:, : options.needles]
        first = options.words + options.keys
        values_NM = torch.randint(first, first + options.values, keys_NM.shape, generator=generator)
        inputs_NT.scatter_(1, places_NM, keys_NM).scatter_(1, places_NM + 1, values_NM)
        inputs_NT[:, -1] = keys_NM[:, 0]
        targets_NT = torch.full((count, options.length), IGNORE)
        targets_NT[:, -1] = values_NM[:, 0]
        return inputs_NT, targets_NT
