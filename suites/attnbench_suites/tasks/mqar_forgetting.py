"""Associative recall with forgetting: keys are written again, and the last value counts."""

# N examples, K keys, W writes, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.drawing import distinct

BLANK = 0


class MqarForgetting:
    """Recall the last value of each queried key (after Arora et al. 2023, "Zoology", section 3, with rewritten keys).

    A sequence begins with writes: a key, then a value. Each of the keys is written at least once, and the rest of the
    writes go to keys drawn uniformly, so that most are written again, each time with a value drawn anew. Each key
    occurs once more later, alone, as in `mqar`, and there the model must answer with the value that it was given last.

    Attention finds all writes of a key and must tell the last; a state that adds up what it is given (linear attention)
    mixes a key's values, one that decays forgets other keys too, and one that replaces (the delta rule: Schlag et al.
    2021, "Linear transformers are secretly fast weight programmers", section 4.2) is made for it.

    No paper publishes these sizes. `paper` has those of the shortest `mqar` configuration of Zoology, with each key
    written twice on average, and its model and training.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences."""

        length: Annotated[int, Meta(ge=4, description="tokens in a sequence")] = 64
        keys: Annotated[int, Meta(ge=1, description="different keys, each queried once")] = 4
        writes: Annotated[int, Meta(ge=1, description="writes of a value, one or more for each key")] = 8
        vocabulary: Annotated[int, Meta(ge=4, description="the blank, keys (lower half), values (upper half)")] = 8192
        causal: Annotated[bool, Meta(description="no position sees a later one")] = True

    presets: ClassVar = {
        "tiny": {
            "length": 32,
            "keys": 2,
            "writes": 6,
            "vocabulary": 32,
            "heads": 1,
            "width": 64,
            "positions": "rotary",
            "feed_forward": 0.0,
            "tied": True,
            "steps": 2500,
            "batch": 64,
            "learning_rate": 4e-3,
            "beta2": 0.95,
            "validate_every": 100,
            "enough": 0.99,
            "beyond": 2,
            "train_examples": 20_000,
            "validation_examples": 500,
            "test_examples": 512,
        },
        "small": {
            "length": 64,
            "keys": 8,
            "writes": 16,
            "vocabulary": 128,
            "heads": 2,
            "width": 128,
            "positions": "rotary",
            "steps": 4000,
            "batch": 64,
            "learning_rate": 1e-3,
            "rates": 3,
            "beta2": 0.95,
            "validate_every": 200,
            "enough": 0.99,
            "beyond": 4,
            "seeds": 3,
            "train_examples": 50_000,
            "validation_examples": 500,
            "test_examples": 512,
        },
        "paper": {
            "length": 64,
            "keys": 4,
            "writes": 8,
            "vocabulary": 8192,
            "heads": 1,
            "width": 128,
            "positions": "rotary",
            "feed_forward": 0.0,
            "tied": True,
            "dropout": 0.1,
            "steps": 25_024,
            "batch": 256,
            "learning_rate": 1e-3,
            "rates": 4,
            "warmup": 0.0,
            "weight_decay": 0.1,
            "clip": 0.0,
            "validate_every": 391,
            "beyond": 8,
            "seeds": 5,
            "train_examples": 100_000,
            "validation_examples": 3000,
            "test_examples": 3000,
        },
    }

    def __init__(self, options: Options) -> None:
        if options.writes < options.keys:
            raise ValueError(f"writes={options.writes} do not reach all keys={options.keys}; raise writes")
        if options.length < 2 * options.writes + options.keys:
            raise ValueError(
                f"length={options.length} has no room for writes={options.writes} and to ask for keys={options.keys}; "
                f"use {2 * options.writes + options.keys} or more"
            )
        if options.vocabulary // 2 <= options.keys:
            raise ValueError(f"vocabulary={options.vocabulary} has too few keys for keys={options.keys}")
        self.options = options
        self.form = Form(
            length=options.length,
            answer="tokens",
            vocabulary=options.vocabulary,
            outputs=options.vocabulary,
            causal=options.causal,
        )

    def longer(self, factor: int) -> "MqarForgetting":
        """Return the task with `factor` times as many writes to the same number of keys."""
        length, writes = factor * self.options.length, factor * self.options.writes
        return MqarForgetting(replace(self.options, length=length, writes=writes))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE where no key is queried); all splits have the same distribution."""
        del split
        options, end = self.options, 2 * self.options.writes
        half = options.vocabulary // 2
        keys_NK = 1 + distinct(count, options.keys, half - 1, generator)
        values_NW = torch.randint(half, options.vocabulary, (count, options.writes), generator=generator)
        key_NW = self._written(count, generator)
        # The last write of a key is the largest place that holds it.
        is_of_NKW = key_NW[:, None, :] == torch.arange(options.keys)[:, None]
        last_NK = torch.where(is_of_NKW, torch.arange(options.writes), -1).amax(2)
        inputs_NT = torch.full((count, options.length), BLANK)
        targets_NT = torch.full((count, options.length), IGNORE)
        inputs_NT[:, 0:end:2] = keys_NK.gather(1, key_NW)
        inputs_NT[:, 1:end:2] = values_NW
        asked_NK = end + distinct(count, options.keys, options.length - end, generator)
        return inputs_NT.scatter_(1, asked_NK, keys_NK), targets_NT.scatter_(1, asked_NK, values_NW.gather(1, last_NK))

    def _written(self, count: int, generator: Generator) -> Tensor:
        """Draw which key each write goes to, every key at least once, in random order: [N, W]."""
        options = self.options
        every_NK = torch.arange(options.keys).expand(count, -1)
        others = torch.randint(options.keys, (count, options.writes - options.keys), generator=generator)
        shuffle_NW = torch.rand(count, options.writes, generator=generator).argsort(1)
        return torch.cat((every_NK, others), dim=1).gather(1, shuffle_NW)
