"""Byte-level language modelling on real text that ships with every Python: its own standard library."""

# N examples, T positions
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Generator, Tensor

from attnbench import Form
from attnbench import Options as BaseOptions

# Tests, packages that some distributions leave out, and tables that repeat across many files.
_LEFT_OUT = {"test", "tests", "idle_test", "distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo"} | {
    "encodings"
}
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


class BytesLm:
    """Predict the next byte of the source of Python's standard library (as Al-Rfou et al. 2019 do for Wikipedia).

    The input is a window of T bytes, and the target at each position is the next byte, which that position cannot see:
    the task is causal by nature. Results are in bits per byte (the loss over ln 2) and perplexity; the weights with the
    lowest loss are kept.

    This is real text, in which names recur at any distance. It is the same on every platform for one version of Python,
    unless a distributor has patched it; a row's environment names the version. A hash of a file's name decides its
    split, with 8 of 10 files in training. Training windows begin anywhere in the concatenated files of the split;
    windows of validation and test do not overlap. Left out are tests, packages that some distributors ship apart, and
    the tables of `encodings`.

    `paper` has the smaller model of Al-Rfou et al. ("Character-level language modeling with deeper self-attention",
    section 4): 12 layers, 8 heads, width 512, windows of 512 bytes, batches of 16. It differs in that it reads 8 MB of
    source rather than 90 MB of Wikipedia, has no auxiliary losses, and trains with Adam for 100,000 steps.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Size of the windows; the default is the paper's."""

        length: Annotated[int, Meta(ge=1, description="bytes in a window")] = 512

    presets: ClassVar = {
        "tiny": {
            "length": 128,
            "heads": 2,
            "width": 64,
            "steps": 400,
            "batch": 16,
            "learning_rate": 3e-3,
            "validate_every": 100,
            "train_examples": 10_000,
            "validation_examples": 100,
            "test_examples": 200,
        },
        "small": {
            "length": 256,
            "heads": 4,
            "width": 128,
            "steps": 1000,
            "batch": 32,
            "learning_rate": 0.002,
            "weight_decay": 0.01,
            "validate_every": 200,
            "rates": 3,
            "seeds": 3,
            "train_examples": 32000,
            "validation_examples": 100,
            "test_examples": 200,
        },
        "paper": {
            "length": 512,
            "layers": 12,
            "heads": 8,
            "width": 512,
            "dropout": 0.2,
            "steps": 100_000,
            "batch": 16,
            "learning_rate": 3e-4,
            "weight_decay": 0.1,
            "validate_every": 1000,
            "rates": 4,
            "seeds": 5,
            "train_examples": 1_000_000,
            "validation_examples": 1000,
            "test_examples": 2000,
        },
    }

    def __init__(self, options: Options) -> None:
        self.options = options
        for split in _SHARES:
            size = sum(path.stat().st_size for path in library_files(split))
            if size <= options.length:
                raise ValueError(
                    f"length={options.length}: the {split} files of {sysconfig.get_path('stdlib')} have {size} bytes; "
                    "lower it, or use a Python that ships its library's source"
                )
        self.form = Form(
            length=options.length, answer="tokens", vocabulary=256, outputs=256, causal=True, bits_per="byte"
        )

    def examples(self, split: str, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Cut inputs_NT and targets_NT out of a split's files; fewer than `count` if they have no more."""
        text = b"".join(path.read_bytes().replace(b"\r\n", b"\n") for path in library_files(split))
        length, bytes_ = self.options.length, torch.frombuffer(bytearray(text), dtype=torch.uint8)
        if split == "train":
            starts_N = torch.randint(len(text) - length, (count,), generator=generator)
        else:
            starts_N = length * torch.randperm((len(text) - 1) // length, generator=generator)[:count]
        windows_NT = bytes_[starts_N[:, None] + torch.arange(length + 1)].long()
        return windows_NT[:, :-1], windows_NT[:, 1:]


def library_files(split: str) -> Iterator[Path]:
    """List a split's source files, sorted by name."""
    low, high = _SHARES[split]
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(_modules(root), key=lambda path: path.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if low <= int(hashlib.sha256(name.encode()).hexdigest(), 16) / 2**256 < high:
            yield path


def _modules(root: Path) -> Iterator[Path]:
    """List the files of the standard library's modules and packages."""
    for name in sys.stdlib_module_names - _LEFT_OUT:
        if (root / f"{name}.py").is_file():
            yield root / f"{name}.py"
        for path in (root / name).rglob("*.py"):
            if not _LEFT_OUT & set(path.relative_to(root).parts):
                yield path
