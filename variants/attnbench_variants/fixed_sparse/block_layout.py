"""The layout of block-local attention: its blocks of queries, and the keys that each is shown."""
# X = B * H, T queries, S keys, D head dimension, N blocks of queries, C rows of a block, M blocks of keys,
# L keys that a block's rows are shown: the global ones, then those of the blocks around it

import torch
from torch.nn.functional import pad

from attnbench import Shape


class Layout:
    """Blocks of queries, which are the last positions of the keys. Local positions are those after the global keys."""

    def __init__(self, shape: Shape, *, causal: bool, block: int, hubs: int, neighbours: int) -> None:
        self.causal = causal
        self.block = block
        self.before, self.after = neighbours, 0 if causal else neighbours
        self.queries = shape.seq_q
        self.hubs = min(hubs, shape.seq_k)
        self.global_keys = self.hubs if causal else shape.seq_k
        self.global_queries = max(0, self.hubs - (shape.seq_k - shape.seq_q))
        self.local_keys = shape.seq_k - self.hubs
        start = self.local_keys - (shape.seq_q - self.global_queries)
        self.first_block = start // block
        self.blocks = -(-self.local_keys // block) - self.first_block
        # A block of its own needs no filling up: decoding is one row, not a block of them.
        self.rows = block if self.blocks > 1 else self.local_keys - start
        self.first_row = self.first_block * block if self.blocks > 1 else start
        self.lead = start - self.first_row
        self.shown = self.hubs + (self.before + 1 + self.after) * block

    def sees(self, i_R1: torch.Tensor, j_S: torch.Tensor) -> torch.Tensor:
        """Return which keys are global or in the blocks around a query's own, or all for a global one: [R, S]."""
        i, j = ((position - self.hubs).div(self.block, rounding_mode="floor") for position in (i_R1, j_S))
        near = (i - j <= self.before) & (j - i <= self.after)
        return near | (j_S < self.hubs) | (i_R1 < self.hubs)

    def query_blocks(self, q_XTD: torch.Tensor) -> torch.Tensor:
        """Cut the local queries into blocks, q_XNCD, the first and the last one filled up."""
        rows = self.blocks * self.rows
        filled = pad(q_XTD, (0, 0, self.lead, rows - self.lead - q_XTD.shape[1]))
        return filled.view(-1, self.blocks, self.rows, q_XTD.shape[2])

    def key_blocks(self, x_XSD: torch.Tensor) -> torch.Tensor:
        """Cut the local keys into blocks, x_XMCD, from the first to the last that any row is shown."""
        offset = (self.first_block - self.before) * self.block
        blocks = self.blocks + self.before + self.after
        local = x_XSD[:, self.hubs :]
        filled = pad(local, (0, 0, -offset, offset + blocks * self.block - self.local_keys))
        return filled.view(-1, blocks, self.block, x_XSD.shape[2])

    def shown_keys(self, x_XSD: torch.Tensor, x_XMCD: torch.Tensor, blocks: slice) -> list[torch.Tensor]:
        """Return the keys that each of a run of blocks is shown, in pieces along the third dimension of x_XNLD."""
        hubs = x_XSD[:, None, : self.hubs].expand(-1, blocks.stop - blocks.start, -1, -1)
        around = range(self.before + 1 + self.after)
        return [hubs, *(x_XMCD[:, blocks.start + i : blocks.stop + i] for i in around)]

    def widths(self, *further: int) -> list[int]:
        """Return the number of keys of each of these pieces, and of those that follow them."""
        return [self.hubs, *[self.block] * (self.before + 1 + self.after), *further]

    def mask(self, device: torch.device) -> torch.Tensor:
        """Mark the shown keys that a row sees, [N, C or 1, L]: not the filling; causally, none after its own."""
        blocks_N11 = torch.arange(self.blocks, device=device)[:, None, None]
        first_key = (self.first_block - self.before) * self.block
        keys_N1L = first_key + blocks_N11 * self.block + torch.arange(self.shown - self.hubs, device=device)
        seen = (keys_N1L >= 0) & (keys_N1L < self.local_keys)
        if self.causal:
            rows_NC1 = self.first_row + blocks_N11 * self.rows + torch.arange(self.rows, device=device)[:, None]
            seen = seen & (keys_N1L <= rows_NC1)
        return pad(seen, (self.hubs, 0), value=True)
