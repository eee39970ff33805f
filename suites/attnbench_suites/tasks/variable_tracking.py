"""Variable tracking: follow assignments from variable to variable to a value."""

# N examples, T positions, C chains, V variables of a chain, A assignments (C * V), S slots that can hold one
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.drawing import distinct


class VariableTracking:
    """Give each variable's value, however many assignments away (Hsieh et al. 2024, "RULER", section 3).

    Among words drawn uniformly lie assignments, each a variable followed by what it is assigned. A chain begins with a
    value; each of its `hops` further variables is assigned the one before it, later in the sequence. Several chains
    with variables and values of their own are interleaved. The sequence ends with all variables in random order, where
    the model must answer with the value of each.

    Each hop is a lookup that must wait for the one before, so a model needs about as many layers as hops; what a
    mechanism loses in one lookup is lost for all that follow.

    RULER writes "VAR X2 = VAR X1" among noise and asks a language model which variables have a given value; here
    everything is a token of one vocabulary, and each variable is asked for its value, so that there is one answer for
    each and a small model can be trained from scratch. With RULER's single chain all variables have one value: `paper`
    has its 4 hops and its shortest context, 4096, with 4 chains; the model is ours.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the sequences."""

        length: Annotated[int, Meta(ge=6, description="tokens in a sequence, including the questions")] = 4096
        chains: Annotated[int, Meta(ge=2, description="chains of assignments, each with a value of its own")] = 4
        hops: Annotated[int, Meta(ge=0, description="assignments of a chain that are from another variable")] = 4
        variables: Annotated[int, Meta(ge=2, description="number of different variables")] = 64
        values: Annotated[int, Meta(ge=2, description="number of different values")] = 64
        words: Annotated[int, Meta(ge=1, description="number of different words between the assignments")] = 64
        causal: Annotated[bool, Meta(description="no position sees a later one")] = True

    presets: ClassVar = {
        "tiny": {
            "length": 24,
            "chains": 2,
            "hops": 1,
            "variables": 8,
            "values": 8,
            "words": 8,
            "layers": 3,
            "heads": 2,
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
            "length": 128,
            "chains": 3,
            "hops": 2,
            "variables": 16,
            "values": 16,
            "words": 16,
            "layers": 4,
            "heads": 4,
            "width": 128,
            "positions": "rotary",
            "steps": 5000,
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
        "paper": {
            "length": 4096,
            "chains": 4,
            "hops": 4,
            "variables": 64,
            "values": 64,
            "words": 64,
            "layers": 6,
            "heads": 4,
            "width": 128,
            "positions": "rotary",
            "steps": 50_000,
            "batch": 32,
            "learning_rate": 1e-3,
            "rates": 4,
            "weight_decay": 0.1,
            "validate_every": 1000,
            "beyond": 8,
            "seeds": 5,
            "train_examples": 100_000,
            "validation_examples": 1000,
            "test_examples": 1000,
        },
    }

    def __init__(self, options: Options) -> None:
        self.assigned = options.chains * (options.hops + 1)
        self.slots = (options.length - self.assigned) // 2
        if self.assigned > self.slots:
            raise ValueError(
                f"length={options.length} has no room for chains={options.chains} of hops={options.hops}; "
                f"use {3 * self.assigned} or more"
            )
        if options.variables < self.assigned:
            raise ValueError(
                f"variables={options.variables} are too few for chains={options.chains} of hops={options.hops}; "
                f"use {self.assigned} or more"
            )
        if options.values < options.chains:
            raise ValueError(f"values={options.values} are too few for chains={options.chains} of different values")
        self.options = options
        tokens = options.words + options.variables + options.values
        self.form = Form(
            length=options.length, answer="tokens", vocabulary=tokens, outputs=tokens, causal=options.causal
        )

    def longer(self, factor: int) -> "VariableTracking":
        """Return the task with `factor` times as many words and the same assignments."""
        return VariableTracking(replace(self.options, length=factor * self.options.length))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE except at the end); all splits have the same distribution."""
        del split
        options, assigned = self.options, self.assigned
        shape = (count, options.chains, options.hops + 1)
        inputs_NT = torch.randint(options.words, (count, options.length), generator=generator)
        variables_NCV = options.words + distinct(count, assigned, options.variables, generator).view(shape)
        first_value = options.words + options.variables
        values_NC = first_value + distinct(count, options.chains, options.values, generator)
        # Slots are drawn for all assignments at once; within a chain they are in order.
        places_NCV = 2 * distinct(count, assigned, self.slots, generator).view(shape).sort(dim=2).values
        sources_NCV = torch.cat((values_NC[:, :, None], variables_NCV[:, :, :-1]), dim=2)
        inputs_NT.scatter_(1, places_NCV.flatten(1), variables_NCV.flatten(1))
        inputs_NT.scatter_(1, places_NCV.flatten(1) + 1, sources_NCV.flatten(1))
        order_NA = torch.rand(count, assigned, generator=generator).argsort(1)
        targets_NT = torch.full((count, options.length), IGNORE)
        inputs_NT[:, -assigned:] = variables_NCV.flatten(1).gather(1, order_NA)
        answers_NCV = values_NC[:, :, None].expand(shape)
        targets_NT[:, -assigned:] = answers_NCV.flatten(1).gather(1, order_NA)
        return inputs_NT, targets_NT
