"""Phone book: look up a number of several digits by a name of several letters."""

# N examples, R entries, W tokens of an entry, T positions
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from msgspec.structs import replace
from torch import Generator, Tensor

from attnbench import IGNORE, Form
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.drawing import distinct

BLANK = 0


class PhoneBook:
    """Look up a number by its name (Jelassi et al. 2024, "Repeat after me", section 4).

    A sequence is a book of entries, each a name of some letters and a number of some digits, then one of the names
    again; from its last letter on the model must answer with the digits of its number, the digits before being given
    (teacher forcing). Letters and digits are drawn uniformly, and no name occurs twice. In training and validation the
    number of entries is drawn uniformly from 1 to `entries`, and blanks follow; test books have all of them. Always
    causal: the answer is the next token.

    Attention finds the name; a state of fixed size must hold the whole book, and how far it gets with more entries than
    in training says how much room it has.

    The paper asks pretrained language models, in text with two entries repeated as examples; here everything is a
    token, the separators are left out, and the model is trained on the task, so that small ones can learn it. `paper`
    has the published 10 digits; the size of the book, the model and its training are ours.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Sizes of the books."""

        entries: Annotated[int, Meta(ge=1, description="most entries of a book, and those of every test book")] = 64
        letters: Annotated[int, Meta(ge=1, description="letters of a name")] = 4
        digits: Annotated[int, Meta(ge=1, description="digits of a number")] = 10
        alphabet: Annotated[int, Meta(ge=2, description="number of different letters")] = 26

    presets: ClassVar = {
        "tiny": {
            "entries": 4,
            "letters": 2,
            "digits": 2,
            "alphabet": 8,
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
            "entries": 16,
            "letters": 2,
            "digits": 4,
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
            "test_examples": 500,
        },
        "paper": {
            "entries": 64,
            "letters": 4,
            "digits": 10,
            "layers": 4,
            "heads": 8,
            "width": 256,
            "positions": "rotary",
            "steps": 50_000,
            "batch": 64,
            "learning_rate": 5e-4,
            "rates": 4,
            "weight_decay": 0.1,
            "validate_every": 1000,
            "beyond": 4,
            "seeds": 5,
            "train_examples": 500_000,
            "validation_examples": 1000,
            "test_examples": 1000,
        },
    }

    def __init__(self, options: Options) -> None:
        if options.entries > options.alphabet**options.letters:
            raise ValueError(
                f"alphabet={options.alphabet} makes fewer names of letters={options.letters} than "
                f"entries={options.entries}; raise one of the two"
            )
        self.options = options
        self.first_digit = 1 + options.alphabet
        tokens = self.first_digit + 10
        entry = options.letters + options.digits
        self.form = Form(
            length=(options.entries + 1) * entry - 1,
            answer="tokens",
            vocabulary=tokens,
            outputs=tokens,
            causal=True,
        )

    def longer(self, factor: int) -> "PhoneBook":
        """Return the task with books of `factor` times as many entries."""
        return PhoneBook(replace(self.options, entries=factor * self.options.entries))

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_NT (IGNORE but before the digits asked for); test books are the largest."""
        options = self.options
        least = options.entries if split == "test" else 1
        sizes_N1 = torch.randint(least, options.entries + 1, (count, 1), generator=generator)
        book_NRW = self._entries(count, generator)
        asked_N1 = (torch.rand(count, 1, generator=generator) * sizes_N1).long()
        width = book_NRW.shape[2]
        book_NRW = torch.cat((book_NRW, torch.full((count, 1, width), BLANK)), dim=1)
        # The entry that is asked for follows the book; what was drawn beyond is blank.
        last_N1W = book_NRW.gather(1, asked_N1[:, :, None].expand(-1, -1, width))
        book_NRW = torch.where(torch.arange(options.entries + 1)[:, None] < sizes_N1[:, :, None], book_NRW, BLANK)
        book_NRW.scatter_(1, sizes_N1[:, :, None].expand(-1, -1, width), last_N1W)
        tokens_NT = book_NRW.flatten(1)
        places_T = torch.arange(tokens_NT.shape[1])
        is_answer_NT = (places_T // width == sizes_N1) & (places_T % width >= options.letters)
        return tokens_NT[:, :-1], torch.where(is_answer_NT, tokens_NT, IGNORE)[:, 1:]

    def _entries(self, count: int, generator: Generator) -> Tensor:
        """Draw books of entries with different names: tokens_NRW."""
        options = self.options
        base = options.alphabet
        names_NR = distinct(count, options.entries, base**options.letters, generator)
        letters_NRL = names_NR[:, :, None] // base ** torch.arange(options.letters) % base + 1
        shape = (count, options.entries, options.digits)
        digits_NRD = torch.randint(self.first_digit, self.first_digit + 10, shape, generator=generator)
        return torch.cat((letters_NRL, digits_NRD), dim=2)
