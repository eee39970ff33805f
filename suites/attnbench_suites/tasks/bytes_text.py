"""Film reviews as bytes, positive or negative: Long Range Arena's text task, from files or from the hub."""

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
    """A review: a line of a file, or a row of the data set on the hub."""

    text: str
    label: Literal[0, 1]


class BytesText:
    """Decide whether a film review is positive (Tay et al. 2020, "Long Range Arena", section 2.2.2; Maas et al. 2011).

    IMDb reviews, byte by byte: a model must form words from letters, and a verdict from words far apart. A review is
    truncated or padded to `length` bytes.

    The reviews come from `path`, a folder with train.jsonl and test.jsonl (per line {"text": "...", "label": 0 or 1}),
    or from the hub, downloaded when a case first needs them (`pip install 'attnbench[hub]'`). Every tenth training
    review is held out for validation.

    Most of what Long Range Arena rewards is short-range (Miralles-Gonzalez et al. 2025, "On the locality bias and
    results in the Long Range Arena"): a high score here does not show that a mechanism reaches far.

    `paper` follows Long Range Arena: 4096 bytes (the published figure is the best of four lengths, 1K to 4K, appendix
    A.1.2; the code is configured for 1000), 4 layers, 4 heads, width 256, sinusoidal positions, 20,000 steps of batch
    32 up to the same peak rate. It differs in that weights are selected on held-out training reviews rather than on the
    test set, the answer is read from the mean of all positions rather than from a class token, padding is an ordinary
    token rather than masked, and the rate decays by a cosine.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Where the reviews are, and how much of each is read."""

        length: Annotated[int, Meta(ge=1, description="bytes read from a review")] = 4096
        path: Annotated[str, Meta(description="folder with train.jsonl and test.jsonl; empty: the hub")] = ""

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
            "positions": "sinusoidal",
            "beta2": 0.98,
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
        """Draw inputs_NT and targets_N from a split's reviews; fewer than `count` if it has no more."""
        part = "test" if split == "test" else "train"
        rows: Any = Lines(Path(self.options.path) / f"{part}.jsonl") if self.options.path else from_hub(part)
        own = [row for row in range(len(rows)) if part == "test" or (row % 10 == 9) == (split == "validation")]
        numbers = chosen(own, count, generator)
        found = _read(rows, numbers) if self.options.path else [Review(**rows[number]) for number in numbers]
        texts = [tokens_of(review.text.encode()[: self.options.length]) for review in found]
        return as_tokens(texts, self.options.length), torch.tensor([review.label for review in found])


def from_hub(part: str) -> Any:
    """Return the reviews on the hub, downloading them if needed. Raises Unsupported if that fails."""
    import datasets

    try:
        return datasets.load_dataset(ON_HUB, split=part)
    except Exception as error:
        raise Unsupported(
            f"IMDb ({ON_HUB}) could not be had from the hub ({type(error).__name__}: {error}); "
            f"connect to it, or give path=FOLDER with {' and '.join(FILES)}"
        ) from error


def _read(lines: Lines, numbers: list[int]) -> list[Review]:
    """Read reviews by number. Raises ValueError for a malformed line."""
    if not len(lines):
        raise ValueError(f"{lines.path} is empty; it has a review a line")
    decoder = msgspec.json.Decoder(Review)
    try:
        return [decoder.decode(line) for line in lines.at(numbers)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{lines.path} has a line that is not {{"text": ..., "label": 0 or 1}}: {error}') from error
