"""Pairs of papers as bytes: does one cite the other? Long Range Arena's retrieval task, from files or its archive."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Form, Unsupported
from attnbench import Options as BaseOptions
from attnbench_suites.tasks.documents import TOKENS, Lines, as_tokens, tokens_of
from attnbench_suites.tasks.sources import check_source, chosen

ARCHIVE = "https://storage.googleapis.com/long-range-arena/lra_release.gz"
FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
SEPARATOR = TOKENS


class Pair(NamedTuple):
    """A line of a file, without the names of the papers."""

    label: int
    first: bytes
    second: bytes


class BytesRetrieval:
    """Decide whether one paper cites the other (Tay et al. 2020, "Long Range Arena", 2.2.3; Radev et al. 2013).

    Papers of the ACL Anthology Network, byte by byte. Both are in one sequence: the first, a separator, the second,
    each truncated to half of it, then padding. This is not the published task: there an encoder turns each paper into a
    vector by itself and layers on top compare the two, so no attention passes between papers. Here it may, and a model
    that compares word by word can do better; results cannot be compared with the published ones.

    The pairs come from `path`, a folder with Long Range Arena's files (new_aan_pairs.train.tsv, .eval.tsv, .test.tsv;
    per line a label, two names and two texts, separated by tabs), or from its archive, downloaded when a case first
    needs it (`pip install 'attnbench[hub]'`). The archive is several GB and the download shows no progress, so raise
    `--timeout` for it.

    Most of what Long Range Arena rewards is short-range (Miralles-Gonzalez et al. 2025, "On the locality bias and
    results in the Long Range Arena"): a high score here does not show that a mechanism reaches far.

    `paper` has the published 4 layers, 4 heads, width 128, 5000 steps of batch 32, and 8192 positions for twice 4000
    bytes. It also differs in that the answer is read from the mean of all positions, padding is an ordinary token
    rather than masked, and the rate decays by a cosine after the warm-up, which in the published code is longer than
    the training.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Where the papers are, and how much of them is read."""

        length: Annotated[int, Meta(ge=3, description="bytes read from both papers, including a separator")] = 8192
        path: Annotated[str, Meta(description="folder with new_aan_pairs.*.tsv; empty: the archive")] = ""

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
            "train_examples": 20_000,
            "validation_examples": 500,
            "test_examples": 2000,
        },
        "paper": {
            "length": 8192,
            "layers": 4,
            "heads": 4,
            "width": 128,
            "positions": "sinusoidal",
            "beta2": 0.98,
            "dropout": 0.1,
            "weight_dropout": 0.1,
            "steps": 5000,
            "batch": 32,
            "learning_rate": 3.5e-4,
            "warmup": 0.4,
            "weight_decay": 0.1,
            "validate_every": 250,
            "rates": 4,
            "seeds": 5,
            "train_examples": 147_086,
            "validation_examples": 2000,
            "test_examples": 17_437,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        self.form = Form(length=options.length, answer="class", vocabulary=SEPARATOR + 1, outputs=2)
        check_source(options.path, tuple(FILES.values()), what="Long Range Arena's archive")
        for name in FILES.values() if options.path else ():
            _read(Lines(Path(options.path) / name), [0])

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs_NT and targets_N from a split's pairs; fewer than `count` if it has no more."""
        folder = Path(self.options.path) if self.options.path else from_archive()
        lines = Lines(folder / FILES[split])
        found = _read(lines, chosen(range(len(lines)), count, generator))
        half = (self.options.length - 1) // 2
        texts = [[*tokens_of(pair.first[:half]), SEPARATOR, *tokens_of(pair.second[:half])] for pair in found]
        return as_tokens(texts, self.options.length), torch.tensor([pair.label for pair in found])


def from_archive() -> Path:
    """Return the archive's folder, downloading it if needed. Raises Unsupported if that fails."""
    import datasets

    try:
        folder: Any = datasets.DownloadManager().download_and_extract(ARCHIVE)
        return next(Path(folder).rglob(FILES["train"])).parent
    except Exception as error:
        raise Unsupported(
            f"Long Range Arena's archive could not be had from the network ({type(error).__name__}: {error}); "
            f"connect to it, or give path=FOLDER with {' and '.join(FILES.values())}"
        ) from error


def _read(lines: Lines, numbers: list[int]) -> list[Pair]:
    """Read pairs by number. Raises ValueError for a malformed line."""
    if not len(lines):
        raise ValueError(f"{lines.path} is empty; it has a pair of papers a line")
    found = []
    for line in lines.at(numbers):
        fields = line.split(b"\t")
        if len(fields) != 5 or fields[0] not in (b"0", b"0.0", b"1", b"1.0"):
            raise ValueError(f"{lines.path} has a line that is not a label, two names and two texts between tabs")
        found.append(Pair(label=int(float(fields[0])), first=fields[3], second=fields[4]))
    return found
