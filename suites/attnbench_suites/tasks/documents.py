"""Documents as bytes, for tasks that read some: files by the line, and texts as tokens."""

# N documents, T positions
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

PAD, BYTE = 0, 1  # a byte b is token BYTE + b, as Long Range Arena has it
TOKENS = BYTE + 256


class Lines:
    """The lines of a file by their number, without holding more of it than where they begin."""

    def __init__(self, path: Path) -> None:
        self.path, self.starts = path, [0]
        with path.open("rb") as file:
            for line in file:
                self.starts.append(self.starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def at(self, numbers: Iterable[int]) -> list[bytes]:
        """Give the lines of these numbers, without their ends."""
        found = []
        with self.path.open("rb") as file:
            for number in numbers:
                file.seek(self.starts[number])
                found.append(file.readline().rstrip(b"\r\n"))
        return found


def as_tokens(texts: Sequence[Sequence[int]], length: int) -> Tensor:
    """Lay tokens out, cut at `length` and padded up to it [N, T]."""
    inputs_NT = torch.full((len(texts), length), PAD)
    for row, tokens in enumerate(texts):
        kept = torch.tensor(tokens[:length], dtype=torch.long)
        inputs_NT[row, : len(kept)] = kept
    return inputs_NT


def tokens_of(text: bytes) -> list[int]:
    """Turn bytes to tokens."""
    return [BYTE + byte for byte in text]
