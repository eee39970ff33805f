"""Tokens in hash order, cut into chunks that look back at the one before: copies, masks, and the way back."""
# X sequences (batch x heads), N tokens, C chunks of M slots, W = 2M keys that a chunk sees, P = (C + 1)M slots with an
# empty chunk before the first one, Z = X x N tokens, D head dimension

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.lse_kernels import Chunks, masked
from attnbench_variants.hashing.hash_rounds import Qkv, rows_in_memory, tokens_at_a_time


class ChunkLayout:
    """Chunks of `chunk` slots for tokens in hash order: the same in all rounds of all sequences.

    Where the last chunk is not full, its last slots are empty. A chunk sees itself and the one before (equation 5); the
    first one sees only itself.
    """

    def __init__(self, tokens: int, chunk: int, *, causal: bool, like: Tensor) -> None:
        self.tokens, self.chunk, self.chunks, self.causal = tokens, chunk, -(-tokens // chunk), causal
        rank_N = torch.arange(tokens, device=like.device)
        self.chunk_N, self.within_N = rank_N // chunk, rank_N % chunk
        self.next_chunk_N = (self.chunk_N + 1) % self.chunks
        # Causal masks differ from round to round.
        self.full_mask = None if causal else self._full_mask(like)

    def runs(self, sequences: int) -> list[slice]:
        """Cut the chunks of some sequences into runs whose copies stay small."""
        few = max(1, tokens_at_a_time(self.chunk_N.device) // (sequences * self.chunk))
        return [slice(first, min(first + few, self.chunks)) for first in range(0, self.chunks, few)]

    def _full_mask(self, like: Tensor) -> Tensor:
        """Hide from each slot itself, empty slots and what would be before the first chunk: [1, C, M, W]."""
        slot_CM1 = torch.arange(self.chunks * self.chunk, device=like.device).view(self.chunks, self.chunk, 1)
        seen_C1W = slot_CM1[:, :1] + torch.arange(-self.chunk, self.chunk, device=like.device)
        hidden_CMW = (seen_C1W == slot_CM1) | (seen_C1W < 0) | (seen_C1W >= self.tokens)
        return like.new_zeros(hidden_CMW.shape).masked_fill_(hidden_CMW, masked(like.dtype))[None]


class SortedChunks:
    """The chunks of some sequences in one round."""

    def __init__(self, order_XN: Tensor, layout: ChunkLayout) -> None:
        self.order_XN, self.layout = order_XN, layout
        # An empty slot holds the number after the last token: later than all of them.
        filling = layout.chunks * layout.chunk - layout.tokens
        self.token_XP = pad(order_XN, (layout.chunk, filling), value=layout.tokens)
        sequence_X1 = torch.arange(len(order_XN), device=order_XN.device)[:, None]
        self.row_XP = self.token_XP.clamp(max=layout.tokens - 1) + sequence_X1 * layout.tokens

    def runs(self) -> list[slice]:
        """Cut the chunks into runs whose copies stay small."""
        return self.layout.runs(len(self.order_XN))

    def chunks(self, qkv: Qkv, run: slice) -> Chunks:
        """Copy into hash order, for each chunk of a run, its queries, and the keys of it and of the one before."""
        full_mask = self.layout.full_mask
        mask_XCMW = self._causal_mask(qkv.v.dtype, run) if full_mask is None else full_mask[:, run]
        return Chunks(self.sorted_queries(qkv.q, run), self._windows(qkv.k, run), self._windows(qkv.v, run), mask_XCMW)

    def sorted_queries(self, x_XND: Tensor, run: slice) -> Tensor:
        """Copy rows into the slots of some chunks: [X, C, M, D]. An empty slot gets any row."""
        rows = self.row_XP[:, self._around(run)][:, self.layout.chunk :].reshape(-1)
        return x_XND.flatten(0, 1).index_select(0, rows).view(len(x_XND), -1, self.layout.chunk, x_XND.shape[2])

    def hide_empty(self, lse_XCM: Tensor) -> Tensor:
        """Set the log-sum-exp of empty slots so high that their weights are zero, in place."""
        lse_XCM.flatten(1)[:, self.layout.tokens :] = -masked(lse_XCM.dtype)
        return lse_XCM

    def query_rows(self, x_XCMD: Tensor) -> Tensor:
        """Return the row of x of each token as a query: [Z, 1]."""
        return rows_in_memory(x_XCMD, self.order_XN, chunk_N=self.layout.chunk_N, within_N=self.layout.within_N)

    def key_rows(self, x_XCWD: Tensor) -> Tensor:
        """Return the rows of x of each token as a key, in its own chunk and in the next: [Z, 2].

        The last chunk has no next one: the empty slots before the first chunk, which have no weight, stand in for it.
        """
        chunk_N, within_N = self.layout.chunk_N, self.layout.within_N
        own_Z1 = rows_in_memory(x_XCWD, self.order_XN, chunk_N=chunk_N, within_N=within_N + self.layout.chunk)
        next_Z1 = rows_in_memory(x_XCWD, self.order_XN, chunk_N=self.layout.next_chunk_N, within_N=within_N)
        return torch.cat([own_Z1, next_Z1], dim=1)

    def _windows(self, x_XND: Tensor, run: slice) -> Tensor:
        """Copy rows, and view each chunk together with the one before: overlapping views of one copy, [X, C, W, D]."""
        row_XP = self.row_XP[:, self._around(run)]
        x_XPD = x_XND.flatten(0, 1).index_select(0, row_XP.reshape(-1)).view(*row_XP.shape, -1)
        return x_XPD.unfold(1, 2 * self.layout.chunk, self.layout.chunk).mT

    def _causal_mask(self, dtype: torch.dtype, run: slice) -> Tensor:
        """Hide from each token what does not come before it: later tokens, itself, empty slots. [X, C, M, W].

        By arithmetic, as comparing and choosing takes five times as long.
        """
        number_XP = self.token_XP[:, self._around(run)].to(wide_dtype(dtype))
        seen_XCW = number_XP.unfold(1, 2 * self.layout.chunk, self.layout.chunk)
        before_XCM = seen_XCW[..., self.layout.chunk :] - 1
        hidden_XCMW = (before_XCM[..., None] - seen_XCW[..., None, :]).clamp_(-1, 0)
        return hidden_XCMW.mul_(-masked(dtype)).to(dtype)

    def _around(self, run: slice) -> slice:
        """Return the slots of some chunks and of the one before them."""
        return slice(run.start * self.layout.chunk, (run.stop + 1) * self.layout.chunk)
