"""ListOps: evaluate a nested expression of minima, maxima, medians and sums, written out as a sequence of tokens."""

# B expressions, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks import expressions
from attnbench_suites.tasks.expressions import CLOSE, PAD, Level

_AT_ONCE = 8192  # expressions drawn at most, of which some have the length that is asked for


class Listops:
    """Evaluate a nested expression (Tay et al. 2020, "Long Range Arena", section 2.2.1; Nangia and Bowman 2018).

    `[MAX 2 9 [MIN 4 7 ] 0 ]` is 9. An operator has 2 to 10 arguments, every number as likely; an argument is an
    expression itself in one of four cases, unless it stands as deep as may be, and else a digit. Operators (minimum,
    maximum, median rounded down, sum modulo 10) and digits are as likely as one another, and only expressions of some
    500 to 2000 tokens count. That is the distribution of the published generator, whose order the classes follow:
    0 and 9 are commoner than other answers, at about 1/6 each. A token is a digit, an operator with its bracket, or the
    closing bracket; what is left of a sequence is padding.

    A model must find the brackets that belong together at any distance, and carry values up as many levels as they
    nest: with `depth=10`, as published, operators nest 9 deep.

    `paper` has the published 96,000 training and 2000 other examples, 5000 steps of batch 32 and models of 4 layers and
    8 heads of 512 features. Other than there: lengths are 512 to 2048 tokens and not 501 to 1999, so that blocks and
    heads of powers of two fit (`shortest=501,length=1999` has the published ones); the answer is read from the mean of
    all positions and not from a position of its own, and padding is a token like others and not masked; the rate is
    1e-3 with a linear rise and a cosine, and not 0.05 with the inverse square root of the step; equal expressions are
    kept out of different splits, not out of one.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the expressions; the defaults are Long Range Arena's, in powers of two."""

        length: Annotated[int, Meta(ge=4, description="positions, and the most tokens of an expression")] = 2048
        shortest: Annotated[int, Meta(ge=4, description="fewest tokens of an expression")] = 512
        depth: Annotated[int, Meta(ge=2, description="levels of an expression, that of digits included")] = 10
        arguments: Annotated[int, Meta(ge=2, description="most arguments of an operator; at least it has 2")] = 10
        operators: Annotated[
            float, Meta(gt=0, lt=1, description="share of arguments that are expressions, where they may be")
        ] = 0.25
        causal: Annotated[bool, Meta(description="a position sees no later one, and the last one answers")] = False

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
        """Draw inputs_BT and the values of their expressions [B]. All splits are alike."""
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
        """Draw the shapes of expressions, and tell which of them have a length that is asked for [B]."""
        options = self.options
        levels = expressions.grow(
            count, generator, depth=options.depth, arguments=options.arguments, operators=options.operators
        )
        lengths_B = expressions.lengths(levels, count)
        return levels, (options.shortest <= lengths_B) & (lengths_B <= options.length)
