"""Documents as bytes: the lines of a file by number, and texts as tokens."""

# N documents, T positions
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

PAD, BYTE = 0, 1  # byte b is token BYTE + b, as in Long Range Arena
TOKENS = BYTE + 256


class Lines:
    """The lines of a file by number; only their offsets are kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.starts = path, [0]
        with path.open("rb") as file:
            for line in file:
                self.starts.append(self.starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def at(self, numbers: Iterable[int]) -> list[bytes]:
        """Return the lines with these numbers, without line endings."""
        found = []
        with self.path.open("rb") as file:
            for number in numbers:
                file.seek(self.starts[number])
                found.append(file.readline().rstrip(b"\r\n"))
        return found


def as_tokens(texts: Sequence[Sequence[int]], length: int) -> Tensor:
    """Return token sequences truncated or padded to `length` [N, T]."""
    inputs_NT = torch.full((len(texts), length), PAD)
    for row, tokens in enumerate(texts):
        kept = torch.tensor(tokens[:length], dtype=torch.long)
        inputs_NT[row, : len(kept)] = kept
    return inputs_NT


def tokens_of(text: bytes) -> list[int]:
    """Convert bytes to tokens."""
    return [BYTE + byte for byte in text]
