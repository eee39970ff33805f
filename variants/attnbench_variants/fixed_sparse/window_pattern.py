"""The pattern of a sliding window: the keys that a query sees, and blocks of queries that are shown as many keys."""
# T queries, S keys; C queries of a block, L keys that it is shown

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# The fused CPU kernel multiplies by a number of keys that is a multiple of this faster than by a few less.
_EVEN = 16


class WindowPattern(NamedTuple):
    """Positions are cut into blocks of `block`; each is shown `shown` keys, `lead` of them before its first position.

    Query c of a block sees the keys c + s of those shown, for s in `seen`, or all if there is no `seen`. With a
    dilation of d all this holds among the positions that are equal modulo d.
    """

    block: int
    lead: int
    shown: int
    seen: range | None = None
    dilation: int = 1

    def hidden(self, device: torch.device) -> Tensor | None:
        """Mark the keys that a block is shown and must not see, [C, L]."""
        if self.seen is None:
            return None
        ahead_CL = torch.arange(self.shown, device=device) - torch.arange(self.block, device=device)[:, None]
        return (ahead_CL < self.seen.start) | (ahead_CL >= self.seen.stop)


def band(*, before: int, after: int, dilation: int = 1) -> WindowPattern:
    """Return the pattern of a query's own key, `before` keys before it and `after` after it, `dilation` apart."""
    # The fastest of 16, 32, 64, 128 and 256, forward and backward, on a CPU: few rows are shown keys in vain.
    block = min(64, max(16, (before + after + 1) // 4))
    even = -(block + before + after) % _EVEN
    seen = range(even, even + before + after + 1)
    return WindowPattern(block, lead=before + even, shown=even + before + block + after, seen=seen, dilation=dilation)


class Tile(NamedTuple):
    """Successive blocks of one shape: their queries, the keys that they are shown, and their part of the mask."""

    rows: slice
    keys: slice
    blocks: int
    block: int
    shown: int
    mask_rows: slice
    mask_keys: slice

    @property
    def pairs(self) -> int:
        """Count the pairs of a query and a key that is shown to it."""
        return self.blocks * len(range(self.mask_rows.start, self.mask_rows.stop)) * self.shown


def tiles_of(pattern: WindowPattern, *, queries: int, keys: int) -> Iterator[Tile]:
    """Cut queries, the last positions of the keys, into tiles.

    All blocks in between are one tile; at either end, where a block or the keys that it is shown are not complete, each
    is a tile of its own.
    """
    step = pattern.dilation
    for residue in range(min(step, keys)):
        first_row = (residue - (keys - queries)) % step
        rows, columns = len(range(first_row, queries, step)), len(range(residue, keys, step))
        for blocks in _groups(pattern, rows=rows, columns=columns):
            yield _tile(pattern, blocks, rows=(first_row, rows), columns=(residue, columns))


def pairs_of(pattern: WindowPattern, *, queries: int, keys: int) -> int:
    """Count the pairs of a query and a key that is shown to it, seen or not."""
    return sum(tile.pairs for tile in tiles_of(pattern, queries=queries, keys=keys))


def _groups(pattern: WindowPattern, *, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Return each tile's first and last block (exclusive) of those with queries; rows are the last of the columns."""
    if not rows:
        return
    block, before = pattern.block, columns - rows
    first, last = before // block, -(-columns // block)
    behind = pattern.shown - pattern.lead - block
    inner = range(max(-(-before // block), -(-pattern.lead // block)), (columns - behind) // block)
    if len(inner) == 0:
        inner = range(last, last)
    yield from ((one, one + 1) for one in range(first, inner.start))
    if inner:
        yield inner.start, inner.stop
    yield from ((one, one + 1) for one in range(inner.stop, last))


def _tile(pattern: WindowPattern, of: tuple[int, int], *, rows: tuple[int, int], columns: tuple[int, int]) -> Tile:
    """Return the tile of some blocks; `rows` and `columns` of one residue are its first index and its number."""
    (first, last), block, before = of, pattern.block, columns[1] - rows[1]
    start, stop = max(before, first * block), min(columns[1], last * block)
    shown_from = first * block - pattern.lead
    left, right = max(0, shown_from), min(columns[1], (last - 1) * block - pattern.lead + pattern.shown)
    if pattern.seen is not None and last - first == 1:
        own = shown_from - first * block
        left, right = max(left, own + start + pattern.seen.start), min(right, own + stop - 1 + pattern.seen.stop)
    blocks, shown = last - first, right - left - (last - first - 1) * block
    return Tile(
        rows=_every(pattern.dilation, rows[0], start=start - before, stop=stop - before),
        keys=_every(pattern.dilation, columns[0], start=left, stop=right),
        blocks=blocks,
        block=block if blocks > 1 else shown,
        shown=shown,
        mask_rows=slice(start - first * block, stop - (last - 1) * block),
        mask_keys=slice(left - shown_from, left - shown_from + shown),
    )


def _every(step: int, first: int, *, start: int, stop: int) -> slice:
    return slice(first + start * step, first + stop * step, step)
