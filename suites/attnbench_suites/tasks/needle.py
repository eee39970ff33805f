"""Needle in a haystack: one short remark is to be found again, at any depth of a long context."""

# N examples, T positions, M needles, S slots in which a needle may lie
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions


class Needle:
    """Find what was said of a key, at any depth of a long context (Hsieh et al. 2024, "RULER", section 3).

    The haystack is of words, drawn evenly. M needles lie in it, each a key and after it the key's value; no key is
    there twice. At the last position one of the keys stands again, and there the model must answer with its value. The
    presets have one needle: it is to be told from hay, wherever it lies. With more of them only the key before it tells
    the one that is asked for from the others, which is far slower to learn.

    `depth` measures how accuracy depends on the place: in percent of the way from the first slot of a needle to the
    last, it fixes where the needle that is asked for lies in the test's examples. Training and validation are at all
    depths, and the same whatever it is, so `--tasks needle:depth=0,needle:depth=50,needle:depth=100` asks the same
    weights three times. Likewise `length` gives accuracy by length.

    Kamradt (2023, "Needle in a haystack") hid a sentence in essays and asked a language model; Mohtashami and Jaggi
    (2023, "Landmark attention", section 4.2) hid a pass key; RULER has one or more keys and values of words, numbers or
    UUIDs in essays or in noise, at 4096 tokens and more. Here all of it is tokens of one vocabulary, so that a model of
    two layers can be trained from nothing. `paper` has RULER's shortest context; its model is ours.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences, and where the test looks."""

        length: Annotated[int, Meta(ge=3, description="tokens of a sequence, the question included")] = 4096
        needles: Annotated[int, Meta(ge=1, description="keys with their values, of which one is asked for")] = 1
        keys: Annotated[int, Meta(ge=1, description="different keys that there are")] = 64
        values: Annotated[int, Meta(ge=2, description="different values that there are")] = 64
        words: Annotated[int, Meta(ge=1, description="different words that the haystack is of")] = 64
        depth: Annotated[
            Annotated[int, Meta(ge=0, le=100)] | None,
            Meta(description="percent of the context before the needle that is asked for, in the test; none: any"),
        ] = None
        causal: Annotated[bool, Meta(description="a position sees no later one")] = True

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
        """Draw inputs_NT, and targets_NT that are IGNORE but at the last position. The test may be of one depth."""
        options = self.options
        inputs_NT = torch.randint(options.words, (count, options.length), generator=generator)
        keys_NM = options.words + torch.rand(count, options.keys, generator=generator).argsort(1)[:, : options.needles]
        slots_NS = torch.rand(count, self.slots, generator=generator)
        if split == "test" and options.depth is not None:
            slots_NS[:, round(options.depth / 100 * (self.slots - 1))] = -1.0  # sorted first, so it is the asked one's
        places_NM = 2 * slots_NS.argsort(1)[:, : options.needles]
        first = options.words + options.keys
        values_NM = torch.randint(first, first + options.values, keys_NM.shape, generator=generator)
        inputs_NT.scatter_(1, places_NM, keys_NM).scatter_(1, places_NM + 1, values_NM)
        inputs_NT[:, -1] = keys_NM[:, 0]
        targets_NT = torch.full((count, options.length), IGNORE)
        targets_NT[:, -1] = values_NM[:, 0]
        return inputs_NT, targets_NT
