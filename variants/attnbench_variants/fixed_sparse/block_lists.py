"""Lists of further blocks of keys that each block of queries is shown besides those around it; how to draw them."""
# X = B * H, S keys, D head dimension, G lists (one for all heads, or one for each), N blocks of queries, A blocks
# listed, C positions of a block, L = A * C keys

from typing import NamedTuple

import torch


class Lists(NamedTuple):
    """Numbers of blocks [G, N, A], -1 where a list is shorter; blocks are cut from key `first` on, of `keys` in all."""

    numbers: torch.Tensor
    block: int
    first: int
    keys: int

    @property
    def shown(self) -> int:
        """Keys that a block of queries is shown by its list."""
        return self.numbers.shape[2] * self.block

    def run(self, blocks: slice) -> "Lists":
        """Return the lists of a run of blocks, filled up to the longest of them only."""
        numbers = self.numbers[:, blocks]
        longest = int((numbers >= 0).sum(dim=2).max()) if numbers.numel() else 0
        return self._replace(numbers=numbers.sort(dim=2).values[..., numbers.shape[2] - longest :])

    def seen(self) -> torch.Tensor:
        """Mark the shown keys that exist, [G, N, 1, L]: a list may be short, and so may the last block."""
        exists = (self._positions() < self.keys) & (self.numbers >= 0)[..., None]
        return exists.flatten(2)[:, :, None]

    def copies(self, x_XSD: torch.Tensor) -> torch.Tensor:
        """Lay out the keys listed, x_XNLD; any other key stands for one that does not exist."""
        # By positions and not by blocks, for which all keys would have to be cut: decoding reads what is listed only.
        rows_XNL = self.of_sequences(self._positions().clamp(0, self.keys - 1).flatten(2), len(x_XSD), step=self.keys)
        return x_XSD.reshape(-1, x_XSD.shape[2]).index_select(0, rows_XNL.view(-1)).view(*rows_XNL.shape, -1)

    def of_sequences(self, of_heads: torch.Tensor, sequences: int, *, step: int) -> torch.Tensor:
        """Turn indices within a sequence, [G, ...], into those of all sequences, `step` apart: [X, ...]."""
        starts_X = torch.arange(sequences, device=of_heads.device) * step
        return of_heads.repeat(sequences // len(of_heads), 1, 1) + starts_X[:, None, None]

    def _positions(self) -> torch.Tensor:
        within_C = torch.arange(self.block, device=self.numbers.device)
        return self.first + self.numbers[..., None] * self.block + within_C


def draw_distinct(available_N: torch.Tensor, wanted_N: torch.Tensor, *, heads: int, seed: int) -> torch.Tensor:
    """Draw, for each block and head, `wanted` distinct numbers from 0 to below `available`: [H, N, A].

    All sets of as many as wanted (or available) are equally likely; A is the largest number, -1 fills up (Floyd's
    algorithm, Bentley 1987). What is drawn for the first blocks does not depend on how many follow.
    """
    most = int(torch.minimum(wanted_N, available_N).max()) if len(wanted_N) else 0
    chance_NHA = torch.rand(
        len(wanted_N), heads, most, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    drawn_NHA = torch.full(chance_NHA.shape, -1)
    for i in range(most):
        last_N1 = (available_N - torch.minimum(wanted_N, available_N) + i)[:, None]
        one_NH = (chance_NHA[..., i] * (last_N1 + 1)).long()
        taken_NH = (drawn_NHA[..., :i] == one_NH[..., None]).any(dim=2)
        drawn_NHA[..., i] = torch.where(taken_NH, last_N1, one_NH).masked_fill(last_N1 >= available_N[:, None], -1)
    return drawn_NHA.transpose(0, 1)
