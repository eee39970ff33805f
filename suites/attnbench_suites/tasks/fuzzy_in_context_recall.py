"""Fuzzy in-context recall: keys and values of several tokens (MAD)."""

# N examples, S slots that can hold a pair, M tokens of a motif, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.in_context_recall import MAD

_NONE = -1  # fills a motif that is shorter than the longest


class FuzzyInContextRecall:
    """Predict values of several tokens for keys seen before (Poli et al. 2024, "Mechanistic design", appendix B).

    As `in-context-recall`, but a key is 1 to `key_tokens` different tokens in a row, a value 1 to `value_tokens`, their
    sizes drawn uniformly. Wherever a key comes again the model must answer with each token of its value; the last pair
    is always such a one. In test examples every key has the largest size. Sequences are filled from the left with a
    padding token, the last of the vocabulary.

    Adjacent tokens must be put together to a key before it can be looked up. Always causal: answers are next tokens.

    `paper` has the published baseline (vocabulary 16, 128 positions, keys and values of up to 3 tokens). It differs as
    `in-context-recall` does.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences; the defaults are the paper's."""

        length: Annotated[int, Meta(ge=8, description="positions of a sequence")] = 128
        vocabulary: Annotated[int, Meta(ge=5, description="keys (lower half), values (upper half), padding")] = 16
        key_tokens: Annotated[int, Meta(ge=1, description="most tokens of a key; all different")] = 3
        value_tokens: Annotated[int, Meta(ge=1, description="most tokens of a value; all different")] = 3

    presets: ClassVar = {
        "tiny": {
            "length": 64,
            "key_tokens": 2,
            "value_tokens": 2,
            "vocabulary": 12,
            "heads": 2,
            "width": 64,
            "positions": "rotary",
            "steps": 1500,
            "batch": 64,
            "learning_rate": 3e-3,
            "validate_every": 100,
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
            "steps": 4000,
            "batch": 64,
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
        "paper": {"length": 128, "vocabulary": 16, "key_tokens": 3, "value_tokens": 3, "beyond": 8, **MAD},
    }

    def __init__(self, options: Options) -> None:
        self.padding = options.vocabulary - 1
        self.keys = self.padding // 2
        self.pair = options.key_tokens + options.value_tokens
        if self.keys < options.key_tokens or self.padding - self.keys < options.value_tokens:
            raise ValueError(
                f"vocabulary={options.vocabulary} has too few tokens for key_tokens={options.key_tokens} and "
                f"value_tokens={options.value_tokens} that are all different; use twice the larger and one more"
            )
        if options.length < 3 * self.pair:
            raise ValueError(f"length={options.length} has no room for pairs to repeat; use {3 * self.pair} or more")
        self.options = options
        self.form = Form(
            length=options.length,
            answer="tokens",
            vocabulary=options.vocabulary,
            outputs=options.vocabulary,
            causal=True,
        )

    def longer(self, factor: int) -> "FuzzyInContextRecall":
        """Return the task with sequences `factor` times as long."""
        return FuzzyInContextRecall(replace(self.options, length=factor * self.options.length))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE but before values of keys seen before); test keys are the longest."""
        options = self.options
        slots = options.length // 2  # a pair has two tokens or more
        least = options.key_tokens if split == "test" else 1
        keys_NSM = _motifs((count, slots), range(self.keys), (least, options.key_tokens), generator)
        values_NSM = _motifs((count, slots), range(self.keys, self.padding), (1, options.value_tokens), generator)
        repeats_NS, first_NS = _first_of_its_kind(keys_NSM)
        values_NSM = values_NSM.gather(1, first_NS[:, :, None].expand_as(values_NSM))
        return self._laid_out(keys_NSM, values_NSM, repeats_NS, generator)

    def _laid_out(
        self, keys_NSM: Tensor, values_NSM: Tensor, repeats_NS: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Put as many pairs in a row as fit, and last a repetition of one of them, at the end of each sequence."""
        pairs_NSM = torch.cat((keys_NSM, values_NSM), dim=2)
        is_value_M = torch.arange(pairs_NSM.shape[2]) >= keys_NSM.shape[2]
        sizes_NS = (pairs_NSM != _NONE).sum(2)
        fit_NS = sizes_NS.cumsum(1) <= self.options.length + 1 - self.pair
        last_N1 = torch.multinomial(fit_NS.double(), 1, generator=generator)
        last_N1M = pairs_NSM.gather(1, last_N1[:, :, None].expand(-1, -1, pairs_NSM.shape[2]))
        pairs_NSM = torch.cat((torch.where(fit_NS[:, :, None], pairs_NSM, _NONE), last_N1M), dim=1)
        asked_NSM = torch.cat((repeats_NS, torch.ones_like(last_N1, dtype=torch.bool)), dim=1)[:, :, None] & is_value_M
        tokens_NT = pairs_NSM.flatten(1)
        # What is there comes last, in order: a stable sort by whether it is.
        order_NT = (tokens_NT != _NONE).long().argsort(dim=1, stable=True)[:, -self.options.length - 1 :]
        tokens_NT, asked_NT = tokens_NT.gather(1, order_NT), asked_NSM.flatten(1).gather(1, order_NT)
        targets_NT = torch.where(asked_NT & (tokens_NT != _NONE), tokens_NT, IGNORE)
        return torch.where(tokens_NT == _NONE, self.padding, tokens_NT)[:, :-1], targets_NT[:, 1:]


def _motifs(shape: tuple[int, int], alphabet: range, sizes: tuple[int, int], generator: Generator) -> Tensor:
    """Draw motifs of different tokens, of sizes drawn uniformly; the rest of the longest is _NONE."""
    drawn_NSM = torch.rand(*shape, len(alphabet), generator=generator).argsort(2)[:, :, : sizes[1]]
    sizes_NS1 = torch.randint(sizes[0], sizes[1] + 1, (*shape, 1), generator=generator)
    return torch.where(torch.arange(sizes[1]) < sizes_NS1, alphabet.start + drawn_NSM, _NONE)


def _first_of_its_kind(motifs_NSM: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each motif repeats an earlier one of its row, and the place of the first like it."""
    bases_M = (int(motifs_NSM.max()) + 2) ** torch.arange(motifs_NSM.shape[2])
    codes_NS = ((motifs_NSM + 1) * bases_M).sum(2)
    order_NS = codes_NS.argsort(dim=1, stable=True)
    sorted_NS = codes_NS.gather(1, order_NS)
    starts_NS = torch.ones_like(codes_NS, dtype=torch.bool)
    starts_NS[:, 1:] = sorted_NS[:, 1:] != sorted_NS[:, :-1]
    run_NS = torch.where(starts_NS, torch.arange(codes_NS.shape[1]), 0).cummax(1).values
    first_NS = torch.empty_like(codes_NS).scatter_(1, order_NS, order_NS.gather(1, run_NS))
    return first_NS != torch.arange(codes_NS.shape[1]), first_NS
