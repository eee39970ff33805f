"""Exact copying: repeat a string, also one longer than any that was trained on."""

# N examples, L letters of the longest string, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions

START, TURN, END, BLANK = range(4)


class ExactCopying:
    """Repeat a string letter by letter (Jelassi et al. 2024, "Repeat after me", section 3).

    A sequence is a start, letters drawn uniformly, a turn, and the same letters again; from the turn on the model must
    answer with the next letter, and after the last one with the end. The letters before are given (teacher forcing), as
    in training there. In training and validation the number of letters is drawn uniformly from `shortest` to `letters`,
    and blanks follow the end; test strings have all `letters`. Always causal: the answer is the next token.

    Attention copies by looking up what followed the last few letters, at any length; a state of fixed size runs out of
    room (section 2). So the test beyond the training length is what counts. Which positions a model has decides much of
    it: the paper's models with none or with distance penalties go on further than rotary ones.

    `paper` has the defaults of the authors' code (sjelassi/transformers_ssm_copy): 26 letters, strings of 5 to 20, 12
    layers of 16 heads, width 1024, weight decay 0.1, a linear decay of the rate. It differs in that a sequence is one
    string, where theirs are packed into contexts of 220 tokens; in its rates and its number of steps; and in that the
    end counts as an answer too. The score is theirs by letter; they also give the share of strings without a mistake.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the strings."""

        letters: Annotated[int, Meta(ge=1, description="letters of the longest string, and of every test string")] = 20
        shortest: Annotated[int, Meta(ge=1, description="letters of the shortest string in training")] = 5
        alphabet: Annotated[int, Meta(ge=2, description="number of different letters")] = 26

    presets: ClassVar = {
        "tiny": {
            "letters": 16,
            "shortest": 4,
            "heads": 4,
            "width": 64,
            "positions": "rotary",
            "steps": 2000,
            "batch": 64,
            "learning_rate": 3e-3,
            "validate_every": 100,
            "enough": 0.99,
            "beyond": 4,
            "train_examples": 20_000,
            "validation_examples": 500,
            "test_examples": 500,
        },
        "small": {
            "letters": 32,
            "heads": 4,
            "width": 128,
            "positions": "rotary",
            "steps": 3000,
            "batch": 64,
            "learning_rate": 1e-3,
            "rates": 3,
            "validate_every": 200,
            "enough": 0.99,
            "beyond": 8,
            "seeds": 3,
            "train_examples": 50_000,
            "validation_examples": 500,
            "test_examples": 500,
        },
        "paper": {
            "letters": 20,
            "layers": 12,
            "heads": 16,
            "width": 1024,
            "positions": "rotary",
            "steps": 100_000,
            "batch": 64,
            "learning_rate": 1e-4,
            "rates": 4,
            "warmup": 0.001,
            "weight_decay": 0.1,
            "decay": "linear",
            "validate_every": 1000,
            "beyond": 8,
            "seeds": 5,
            "train_examples": 1_000_000,
            "validation_examples": 1000,
            "test_examples": 1000,
        },
    }

    def __init__(self, options: Options) -> None:
        if options.shortest > options.letters:
            raise ValueError(f"shortest={options.shortest} is longer than letters={options.letters}; lower it")
        self.options = options
        tokens = BLANK + 1 + options.alphabet
        self.form = Form(
            length=2 * options.letters + 2, answer="tokens", vocabulary=tokens, outputs=tokens, causal=True
        )

    def longer(self, factor: int) -> "ExactCopying":
        """Return the task with strings `factor` times as long."""
        return ExactCopying(replace(self.options, letters=factor * self.options.letters))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE before the turn and after the end); test strings are the longest."""
        options = self.options
        least = options.letters if split == "test" else options.shortest
        sizes_N1 = torch.randint(least, options.letters + 1, (count, 1), generator=generator)
        letters_NL = torch.randint(BLANK + 1, self.form.vocabulary, (count, options.letters), generator=generator)
        places_T = torch.arange(self.form.length + 1)
        # Start, letters, turn, letters, end: the place of a letter in its string repeats after the turn.
        letter_NT = letters_NL.gather(1, ((places_T - 1) % (sizes_N1 + 1)).clamp(max=options.letters - 1))
        tokens_NT = torch.where(places_T <= 2 * sizes_N1 + 1, letter_NT, BLANK)
        tokens_NT[:, 0] = START
        tokens_NT.scatter_(1, sizes_N1 + 1, TURN).scatter_(1, 2 * sizes_N1 + 2, END)
        is_answer_NT = (places_T > sizes_N1 + 1) & (places_T <= 2 * sizes_N1 + 2)
        return tokens_NT[:, :-1], torch.where(is_answer_NT, tokens_NT, IGNORE)[:, 1:]
