"""State tracking: the running product of permutations, which is parity for two elements."""

# N examples, T positions, P permutations that are tokens, G permutations of the group
from itertools import permutations
from typing import Annotated, ClassVar, Literal

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions


class StateTracking:
    """Track a running product of permutations (Merrill et al. 2024, "The illusion of state in state-space models").

    Each token is a permutation of a few elements, drawn uniformly, and at each position the model must answer with the
    product of all so far, the latest applied last: the word problem of the group. Permutations are numbered in
    lexicographic order. S2 is parity: whether the number of swaps so far is odd. S3 and S4 are solvable groups; S5 is
    not, and its word problem is complete for NC1, which transformers, and states with diagonal updates, of fixed depth
    are believed not to reach.

    A model of fixed depth learns short products by heart, so the test beyond the training length is what counts.
    Expected to win are states whose updates have negative eigenvalues, as the delta rule with strengths up to 2 (Grazzi
    et al. 2024, "Unlocking state-tracking in linear RNNs through negative eigenvalues"). With eigenvalues in [0, 1], as
    linear attention, its gated forms and DeltaNet were first published, even parity is out of reach at every length
    (theorem 1 there).

    `paper` has Grazzi et al.'s S5 and training length, 32, with all 120 permutations as tokens; the model and its
    training are ours. Their test goes on to 500 positions and asks whether a whole sequence is right; here it goes to
    256, and each answer beyond the training length counts. `moved=2` leaves swaps and the identity, an easier set.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The group, and the permutations and lengths of the sequences."""

        group: Annotated[
            Literal["S2", "S3", "S4", "S5"], Meta(description="all permutations of 2, 3, 4 or 5 elements; S2: parity")
        ] = "S5"
        moved: Annotated[int, Meta(ge=2, description="most elements that a permutation of the inputs moves")] = 5
        length: Annotated[int, Meta(ge=2, description="permutations in a sequence")] = 32
        causal: Annotated[bool, Meta(description="no position sees a later one")] = True

    presets: ClassVar = {
        "tiny": {
            "group": "S3",
            "length": 8,
            "heads": 2,
            "width": 64,
            "positions": "rotary",
            "steps": 1500,
            "batch": 64,
            "learning_rate": 2e-3,
            "validate_every": 100,
            "enough": 0.99,
            "beyond": 8,
            "train_examples": 20_000,
            "validation_examples": 500,
            "test_examples": 500,
        },
        "small": {
            "group": "S5",
            "length": 16,
            "heads": 4,
            "width": 128,
            "positions": "rotary",
            "steps": 3000,
            "batch": 64,
            "learning_rate": 1e-3,
            "rates": 3,
            "validate_every": 200,
            "enough": 0.99,
            "beyond": 4,
            "seeds": 3,
            "train_examples": 50_000,
            "validation_examples": 500,
            "test_examples": 500,
        },
        "paper": {
            "group": "S5",
            "length": 32,
            "heads": 4,
            "width": 128,
            "positions": "none",
            "steps": 100_000,
            "batch": 512,
            "learning_rate": 1e-3,
            "rates": 4,
            "weight_decay": 0.01,
            "validate_every": 1000,
            "beyond": 8,
            "seeds": 5,
            "train_examples": 1_000_000,
            "validation_examples": 1000,
            "test_examples": 1000,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        group = list(permutations(range(int(options.group[1]))))
        self.tokens = [one for one in group if sum(i != j for i, j in enumerate(one)) <= options.moved]
        number = {one: index for index, one in enumerate(group)}
        # after_GP[s, p] is the state that token p makes of state s.
        after = [[number[tuple(one[i] for i in state)] for one in self.tokens] for state in group]
        self.after_GP = torch.tensor(after)
        self.form = Form(
            length=options.length,
            answer="tokens",
            vocabulary=len(self.tokens),
            outputs=len(group),
            causal=options.causal,
        )

    def longer(self, factor: int) -> "StateTracking":
        """Return the task with `factor` times as many permutations."""
        return StateTracking(replace(self.options, length=factor * self.options.length))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT, one for each position; all splits have the same distribution."""
        del split
        inputs_NT = torch.randint(len(self.tokens), (count, self.options.length), generator=generator)
        targets_NT = torch.empty_like(inputs_NT)
        state_N = torch.zeros(count, dtype=torch.long)  # the identity comes first in order
        for position, tokens_N in enumerate(inputs_NT.T):
            state_N = self.after_GP[state_N, tokens_N]
            targets_NT[:, position] = state_N
        return inputs_NT, targets_NT
