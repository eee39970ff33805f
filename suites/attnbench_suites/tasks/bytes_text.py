"""Reviews of films as bytes, good or bad: Long Range Arena's text task, on files or from the hub."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import torch
from msgspec import Meta, Struct
from torch import Generator, Tensor

from attnbench import Form, Unsupported
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.documents import TOKENS, Lines, as_tokens, tokens_of
from attnbench_suites.tasks.sources import check_source, chosen

ON_HUB = "stanfordnlp/imdb"
FILES = ("train.jsonl", "test.jsonl")


class Review(Struct, frozen=True):
    """A line of a file, and a row of the hub's set."""

    text: str
    label: Literal[0, 1]


class BytesText:
    """Tell whether a review is good or bad (Tay et al. 2020, "Long Range Arena", section 2.2.2; Maas et al. 2011).

    IMDb's reviews, byte by byte: a model must make words of letters, and a verdict of words that are far apart. A
    review is cut at `length` bytes, and padded up to it.

    The reviews are `path`, a folder with train.jsonl and test.jsonl (a line: {"text": "...", "label": 0 or 1}), or
    those of the hub, downloaded when a case first needs them (`pip install 'attnbench[hub]'`). Every tenth of the
    training reviews chooses the weights and is not learned from.

    `paper` is Long Range Arena's: 4096 bytes (their paper's length; their code's configuration has 1000), 4 layers and
    4 heads of 256 features, 20,000 steps of batch 32 up to the same highest rate. Other than there: weights are chosen
    on training reviews and not on the test's, the answer is read from the mean of all positions and not from one of
    its own, padding is a token like others and not masked, and the rate falls by a cosine.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Where the reviews are and how much of each is read."""

        length: Annotated[int, Meta(ge=1, description="bytes that are read of a review")] = 4096
        path: Annotated[str, Meta(description="folder of train.jsonl and test.jsonl; empty: from the hub")] = ""

    presets: ClassVar = {
        "tiny": {
            "length": 256,
            "heads": 2,
            "width": 64,
            "steps": 300,
            "batch": 16,
            "learning_rate": 2e-3,
            "train_examples": 10_000,
            "validation_examples": 500,
            "test_examples": 2000,
        },
        "small": {
            "length": 1024,
            "heads": 4,
            "width": 64,
            "dropout": 0.1,
            "steps": 1000,
            "batch": 32,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "rates": 3,
            "seeds": 3,
            "train_examples": 22_500,
            "validation_examples": 500,
            "test_examples": 2000,
        },
        "paper": {
            "length": 4096,
            "layers": 4,
            "heads": 4,
            "width": 256,
            "dropout": 0.1,
            "weight_dropout": 0.1,
            "steps": 20_000,
            "batch": 32,
            "learning_rate": 5.6e-4,
            "warmup": 0.4,
            "weight_decay": 0.1,
            "validate_every": 500,
            "rates": 4,
            "seeds": 5,
            "train_examples": 22_500,
            "validation_examples": 2500,
            "test_examples": 25_000,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        self.form = Form(length=options.length, answer="class", vocabulary=TOKENS, outputs=2)
        check_source(options.path, FILES, what=f"IMDb ({ON_HUB})")
        for name in FILES if options.path else ():
            _read(Lines(Path(options.path) / name), [0])

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_N of the reviews of a split; fewer than `count` where it has no more."""
        part = "test" if split == "test" else "train"
        rows: Any = Lines(Path(self.options.path) / f"{part}.jsonl") if self.options.path else from_hub(part)
        own = [row for row in range(len(rows)) if part == "test" or (row % 10 == 9) == (split == "validation")]
        numbers = chosen(own, count, generator)
        found = _read(rows, numbers) if self.options.path else [Review(**rows[number]) for number in numbers]
        texts = [tokens_of(review.text.encode()[: self.options.length]) for review in found]
        return as_tokens(texts, self.options.length), torch.tensor([review.label for review in found])


def from_hub(part: str) -> Any:
    """Download the reviews, or find them where they were kept. Raises Unsupported where that fails."""
    import datasets

    try:
        return datasets.load_dataset(ON_HUB, split=part)
    except Exception as error:
        raise Unsupported(
            f"IMDb ({ON_HUB}) could not be had from the hub ({type(error).__name__}: {error}); "
            f"connect to it, or give path=FOLDER with {' and '.join(FILES)}"
        ) from error


def _read(lines: Lines, numbers: list[int]) -> list[Review]:
    """Read reviews by their number. Raises ValueError for a line that is none."""
    if not len(lines):
        raise ValueError(f"{lines.path} is empty; it has a review a line")
    decoder = msgspec.json.Decoder(Review)
    try:
        return [decoder.decode(line) for line in lines.at(numbers)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{lines.path} has a line that is not {{"text": ..., "label": 0 or 1}}: {error}') from error
