"""Where tokens stand when a round's hash order is cut into chunks that look back: copies, masks, and the way back.

X sequences (batch x heads), N tokens, C chunks of M places, W = 2M keys that a chunk sees, P = (C + 1)M places with an
empty chunk before the first one, Z = X x N tokens, D head dimension.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench_variants.blocks.lse_kernels import Chunks, masked
from attnbench_variants.hashing.hash_rounds import Qkv, rows_in_memory, tokens_at_a_time, wide


class Cut:
    """How tokens in hash order are cut into chunks of `chunk` places: alike in all rounds of all sequences.

    Where the last chunk is not full, its last places are empty. A chunk sees itself and the one before (equation 5);
    the first one sees only itself.
    """

    def __init__(self, tokens: int, chunk: int, *, causal: bool, like: Tensor) -> None:
        self.tokens, self.chunk, self.chunks, self.causal = tokens, chunk, -(-tokens // chunk), causal
        place_N = torch.arange(tokens, device=like.device)
        self.chunk_N, self.within_N = place_N // chunk, place_N % chunk
        self.next_chunk_N = (self.chunk_N + 1) % self.chunks
        # Causal masks differ from round to round.
        self.full_mask = None if causal else self._full_mask(like)

    def runs(self, sequences: int) -> list[slice]:
        """Cut the chunks of some sequences into runs whose copies stay small."""
        few = max(1, tokens_at_a_time(self.chunk_N.device) // (sequences * self.chunk))
        return [slice(first, min(first + few, self.chunks)) for first in range(0, self.chunks, few)]

    def _full_mask(self, like: Tensor) -> Tensor:
        """Hide from each place itself, empty places and what would be before the first chunk: [1, C, M, W]."""
        place_CM1 = torch.arange(self.chunks * self.chunk, device=like.device).view(self.chunks, self.chunk, 1)
        seen_C1W = place_CM1[:, :1] + torch.arange(-self.chunk, self.chunk, device=like.device)
        hidden_CMW = (seen_C1W == place_CM1) | (seen_C1W < 0) | (seen_C1W >= self.tokens)
        return like.new_zeros(hidden_CMW.shape).masked_fill_(hidden_CMW, masked(like.dtype))[None]


class Places:
    """The places of the tokens of some sequences in one round."""

    def __init__(self, order_XN: Tensor, cut: Cut) -> None:
        self.order_XN, self.cut = order_XN, cut
        # An empty place holds the number after the last token: later than all of them.
        self.token_XP = pad(order_XN, (cut.chunk, cut.chunks * cut.chunk - cut.tokens), value=cut.tokens)
        sequence_X1 = torch.arange(len(order_XN), device=order_XN.device)[:, None]
        self.row_XP = self.token_XP.clamp(max=cut.tokens - 1) + sequence_X1 * cut.tokens

    def runs(self) -> list[slice]:
        """Cut the chunks into runs whose copies stay small."""
        return self.cut.runs(len(self.order_XN))

    def meet(self, qkv: Qkv, run: slice) -> Chunks:
        """Copy into hash order: to each chunk of a run its queries, and the keys of it and of the one before."""
        full_mask = self.cut.full_mask
        mask_XCMW = self._causal_mask(qkv.v.dtype, run) if full_mask is None else full_mask[:, run]
        return Chunks(self.in_order(qkv.q, run), self._windows(qkv.k, run), self._windows(qkv.v, run), mask_XCMW)

    def in_order(self, x_XND: Tensor, run: slice) -> Tensor:
        """Copy rows into the places of some chunks: [X, C, M, D]. An empty place is given some row."""
        rows = self.row_XP[:, self._around(run)][:, self.cut.chunk :].reshape(-1)
        return x_XND.flatten(0, 1).index_select(0, rows).view(len(x_XND), -1, self.cut.chunk, x_XND.shape[2])

    def without_empty(self, lse_XCM: Tensor) -> Tensor:
        """Set the log-sum-exp of queries in empty places so high that they weigh nothing, in place."""
        lse_XCM.flatten(1)[:, self.cut.tokens :] = -masked(lse_XCM.dtype)
        return lse_XCM

    def of_queries(self, x_XCMD: Tensor) -> Tensor:
        """Give, for each token, the row of x where it stands as a query: [Z, 1]."""
        return rows_in_memory(x_XCMD, self.order_XN, chunk_N=self.cut.chunk_N, within_N=self.cut.within_N)

    def of_keys(self, x_XCWD: Tensor) -> Tensor:
        """Give, for each token, the rows of x where it stands as a key, in its own chunk and in the next: [Z, 2].

        The last chunk has no next one: the empty places before the first chunk, which are given no weight, stand in.
        """
        chunk_N, within_N = self.cut.chunk_N, self.cut.within_N
        own_Z1 = rows_in_memory(x_XCWD, self.order_XN, chunk_N=chunk_N, within_N=within_N + self.cut.chunk)
        next_Z1 = rows_in_memory(x_XCWD, self.order_XN, chunk_N=self.cut.next_chunk_N, within_N=within_N)
        return torch.cat([own_Z1, next_Z1], dim=1)

    def _windows(self, x_XND: Tensor, run: slice) -> Tensor:
        """Copy rows and give each chunk after the one before: overlapping views of one copy, [X, C, W, D]."""
        row_XP = self.row_XP[:, self._around(run)]
        x_XPD = x_XND.flatten(0, 1).index_select(0, row_XP.reshape(-1)).view(*row_XP.shape, -1)
        return x_XPD.unfold(1, 2 * self.cut.chunk, self.cut.chunk).mT

    def _causal_mask(self, dtype: torch.dtype, run: slice) -> Tensor:
        """Hide from each token what does not come before it: later tokens, itself, empty places. [X, C, M, W].

        By arithmetic, as comparing and choosing takes five times as long.
        """
        number_XP = self.token_XP[:, self._around(run)].to(wide(dtype))
        seen_XCW = number_XP.unfold(1, 2 * self.cut.chunk, self.cut.chunk)
        before_XCM = seen_XCW[..., self.cut.chunk :] - 1
        hidden_XCMW = (before_XCM[..., None] - seen_XCW[..., None, :]).clamp_(-1, 0)
        return hidden_XCMW.mul_(-masked(dtype)).to(dtype)

    def _around(self, run: slice) -> slice:
        """Give the places of some chunks and of the one before them."""
        return slice(run.start * self.cut.chunk, (run.stop + 1) * self.cut.chunk)
