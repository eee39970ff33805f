"""ListOps: evaluate nested minima, maxima, medians and sums, written as a sequence of tokens."""

# B expressions, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks import expressions
from attnbench_suites.tasks.expressions import CLOSE, PAD, Level

_AT_ONCE = 8192  # most expressions drawn at once; only some have an allowed length


class Listops:
    """Evaluate a nested expression (Tay et al. 2020, "Long Range Arena", section 2.2.1; Nangia and Bowman 2018).

    `[MAX 2 9 [MIN 4 7 ] 0 ]` is 9. An operator has 2 to 10 arguments, each number equally likely; one argument in four
    is itself an expression, unless the maximum depth is reached, and the others are digits. Operators (minimum,
    maximum, median rounded down, sum modulo 10) and digits are drawn uniformly, and only expressions of about 500 to
    2000 tokens are kept. This is the distribution of the published generator, so classes are unbalanced: 0 and 9 are
    the commonest answers, at about 1/6 each. A token is a digit, an operator with its bracket, or a closing bracket;
    the rest of a sequence is padding.

    A model must match brackets at any distance and carry values up through as many levels as they nest: with
    `depth=10`, as published, operators nest 9 deep.

    Most of what Long Range Arena rewards is short-range (Miralles-Gonzalez et al. 2025, "On the locality bias and
    results in the Long Range Arena"): a high score here does not show that a mechanism reaches far.

    `paper` has the published 96,000 training examples, 2000 for validation and 2000 for testing, 5000 steps of batch
    32, 4 layers, 8 heads and width 512 (the code's; the paper says 6 layers), sinusoidal positions. It differs in that
    lengths are 512 to 2048 tokens rather than 501 to 1999, so that blocks whose sizes are powers of two fit
    (`shortest=501,length=1999` has the published ones); the answer is read from the mean of all positions rather than
    from a class token, and padding is an ordinary token rather than masked; the rate is 1e-3 with a linear warm-up and
    a cosine decay rather than 0.05 with an inverse square root decay; and equal expressions never occur in different
    splits, though they may within one.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the expressions; the defaults are Long Range Arena's, rounded to powers of two."""

        length: Annotated[int, Meta(ge=4, description="positions, and most tokens in an expression")] = 2048
        shortest: Annotated[int, Meta(ge=4, description="fewest tokens in an expression")] = 512
        depth: Annotated[int, Meta(ge=2, description="levels of an expression, including that of the digits")] = 10
        arguments: Annotated[int, Meta(ge=2, description="most arguments of an operator; the fewest is 2")] = 10
        operators: Annotated[
            float, Meta(gt=0, lt=1, description="share of arguments that are expressions, above the last level")
        ] = 0.25
        causal: Annotated[bool, Meta(description="no position sees a later one, and the last one answers")] = False

    presets: ClassVar = {
        "tiny": {
            "length": 64,
            "shortest": 16,
            "depth": 4,
            "arguments": 5,
            "heads": 2,
            "width": 64,
            "steps": 500,
            "batch": 32,
            "learning_rate": 3e-3,
            "validate_every": 100,
            "train_examples": 16_000,
            "validation_examples": 1000,
            "test_examples": 2000,
        },
        "small": {
            "length": 256,
            "shortest": 64,
            "depth": 6,
            "arguments": 10,
            "heads": 4,
            "width": 64,
            "steps": 2000,
            "batch": 32,
            "learning_rate": 0.001,
            "weight_decay": 0.01,
            "validate_every": 200,
            "rates": 3,
            "seeds": 3,
            "train_examples": 50000,
            "validation_examples": 1000,
            "test_examples": 2000,
        },
        "paper": {
            "length": 2048,
            "shortest": 512,
            "depth": 10,
            "arguments": 10,
            "layers": 4,
            "heads": 8,
            "width": 512,
            "feed_forward": 2.0,
            "positions": "sinusoidal",
            "beta2": 0.98,
            "steps": 5000,
            "batch": 32,
            "learning_rate": 1e-3,
            "warmup": 0.2,
            "weight_decay": 0.1,
            "dropout": 0.1,
            "weight_dropout": 0.1,
            "validate_every": 250,
            "rates": 4,
            "seeds": 5,
            "train_examples": 96_000,
            "validation_examples": 2000,
            "test_examples": 2000,
        },
    }

    def __init__(self, options: Options) -> None:
        if options.shortest > options.length:
            raise ValueError(
                f"shortest={options.shortest} is more than length={options.length} has positions; lower it"
            )
        self.options = options
        self.form = Form(length=options.length, answer="class", vocabulary=CLOSE + 1, outputs=10, causal=options.causal)
        if not self._drawn(_AT_ONCE, Generator().manual_seed(0))[1].any():
            raise ValueError(
                f"shortest={options.shortest}, length={options.length}: of {_AT_ONCE} expressions of depth="
                f"{options.depth} and up to arguments={options.arguments} none has so many tokens; widen the range"
            )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_BT and the values of the expressions [B]; all splits have the same distribution."""
        del split
        inputs_BT, values_B = torch.full((count, self.options.length), PAD), torch.empty(count, dtype=torch.long)
        done = 0
        while done < count:
            levels, fits_B = self._drawn(min(4 * count, _AT_ONCE), generator)
            fits_B &= fits_B.cumsum(0) <= count - done
            levels, end = expressions.select(levels, fits_B), done + int(fits_B.sum())
            tokens, values_B[done:end] = expressions.fill(levels, generator)
            expressions.write(levels, tokens, inputs_BT[done:end])
            done = end
        return inputs_BT, values_B

    def _drawn(self, count: int, generator: Generator) -> tuple[list[Level], Tensor]:
        """Draw the shapes of expressions, and whether each has an allowed length [B]."""
        options = self.options
        levels = expressions.grow(
            count, generator, depth=options.depth, arguments=options.arguments, operators=options.operators
        )
        lengths_B = expressions.lengths(levels, count)
        return levels, (options.shortest <= lengths_B) & (lengths_B <= options.length)
