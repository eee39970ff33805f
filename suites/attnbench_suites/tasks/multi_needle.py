"""Several needles in a haystack: all values of one key, among other keys."""

# N examples, T positions, M keys in the haystack, Q of them queried, V values of each, S slots that can hold a key and
# a value
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.drawing import distinct


class MultiNeedle:
    """Retrieve all values of some of the keys in a haystack (Hsieh et al. 2024, "RULER", section 3).

    The haystack is words drawn uniformly. In it lie needles, each a key followed by a value: `needles` different keys,
    each with `each` different values at places of their own. The sequence ends with `queries` of the keys, each of them
    `each` times, where the model must answer with the key's values, the smallest token first. With each=1 and queries=1
    it is RULER's multi-keys, with needles=1 its multi-values, and with queries=needles its multi-queries.

    Only the key tells the needles apart, and a window or a block that happens on one of them is not enough. The values
    are a set, which RULER takes in any order; a fixed order makes one answer right.

    RULER hides sentences ("One of the special magic numbers for ... is: ...") in essays or noise and asks a language
    model; here everything is a token of one vocabulary, so that a small model can be trained from scratch. `paper` has
    RULER's shortest context, 4096, and its numbers of keys and of values, 4, which it varies one at a time; the model
    is ours. In the other presets every key is queried, as a single question in a sequence teaches slowly.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences."""

        length: Annotated[int, Meta(ge=3, description="tokens in a sequence, including the question")] = 4096
        needles: Annotated[int, Meta(ge=1, description="different keys in the haystack")] = 4
        queries: Annotated[int, Meta(ge=1, description="keys that are queried, one after another")] = 1
        each: Annotated[int, Meta(ge=1, description="values of each key, all of them asked for")] = 4
        keys: Annotated[int, Meta(ge=1, description="number of different keys")] = 64
        values: Annotated[int, Meta(ge=2, description="number of different values")] = 64
        words: Annotated[int, Meta(ge=1, description="number of different words in the haystack")] = 64
        causal: Annotated[bool, Meta(description="no position sees a later one")] = True

    presets: ClassVar = {
        "tiny": {
            "length": 32,
            "needles": 2,
            "queries": 2,
            "each": 2,
            "keys": 8,
            "values": 8,
            "words": 8,
            "layers": 3,
            "heads": 4,
            "width": 64,
            "positions": "rotary",
            "steps": 1500,
            "batch": 64,
            "learning_rate": 1e-3,
            "validate_every": 100,
            "enough": 0.99,
            "beyond": 4,
            "train_examples": 20_000,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "small": {
            "length": 256,
            "needles": 4,
            "queries": 4,
            "each": 2,
            "keys": 16,
            "values": 16,
            "words": 16,
            "layers": 3,
            "heads": 4,
            "width": 128,
            "positions": "rotary",
            "steps": 4000,
            "batch": 32,
            "learning_rate": 1e-3,
            "rates": 3,
            "validate_every": 200,
            "enough": 0.99,
            "beyond": 4,
            "seeds": 3,
            "train_examples": 50_000,
            "validation_examples": 500,
            "test_examples": 1000,
        },
        "paper": {
            "length": 4096,
            "needles": 4,
            "queries": 1,
            "each": 4,
            "keys": 64,
            "values": 64,
            "words": 64,
            "heads": 4,
            "width": 128,
            "positions": "rotary",
            "steps": 20_000,
            "batch": 32,
            "learning_rate": 1e-3,
            "rates": 4,
            "weight_decay": 0.1,
            "validate_every": 500,
            "beyond": 8,
            "seeds": 5,
            "train_examples": 100_000,
            "validation_examples": 1000,
            "test_examples": 2000,
        },
    }

    def __init__(self, options: Options) -> None:
        self.asked = options.queries * options.each
        self.slots = (options.length - self.asked) // 2
        if options.needles * options.each > self.slots:
            raise ValueError(
                f"length={options.length} has no room for needles={options.needles} with each={options.each} values; "
                f"use {2 * options.needles * options.each + self.asked} or more"
            )
        for few, many in (("keys", "needles"), ("needles", "queries"), ("values", "each")):
            if getattr(options, few) < getattr(options, many):
                raise ValueError(
                    f"{few}={getattr(options, few)} are fewer than {many}={getattr(options, many)}, all different"
                )
        self.options = options
        tokens = options.words + options.keys + options.values
        self.form = Form(
            length=options.length, answer="tokens", vocabulary=tokens, outputs=tokens, causal=options.causal
        )

    def longer(self, factor: int) -> "MultiNeedle":
        """Return the task with `factor` times as much hay and the same needles."""
        return MultiNeedle(replace(self.options, length=factor * self.options.length))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE except at the end); all splits have the same distribution."""
        del split
        options = self.options
        needles, each, first_value = options.needles, options.each, options.words + options.keys
        inputs_NT = torch.randint(options.words, (count, options.length), generator=generator)
        keys_NM = options.words + distinct(count, needles, options.keys, generator)
        values_NMV = first_value + distinct(count * needles, each, options.values, generator).view(count, needles, each)
        places_NS = 2 * distinct(count, needles * each, self.slots, generator)
        inputs_NT.scatter_(1, places_NS, keys_NM.repeat_interleave(each, dim=1))
        inputs_NT.scatter_(1, places_NS + 1, values_NMV.flatten(1))
        targets_NT = torch.full((count, options.length), IGNORE)
        inputs_NT[:, -self.asked :] = keys_NM[:, : options.queries].repeat_interleave(each, dim=1)
        targets_NT[:, -self.asked :] = values_NMV[:, : options.queries].sort(dim=2).values.flatten(1)
        return inputs_NT, targets_NT
