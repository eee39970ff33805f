"""Where tokens stand when a round's hash order is cut into chunks: copies into that order, masks, and the way back.

X sequences (batch x heads), N tokens, C chunks of M places, W = 2M keys that a chunk sees, P = (C + 1)M places with an
empty chunk before the first one, Z = X x N tokens, D head dimension.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

# Tokens in hash order at a time. On a CPU: a head of usual length, whose copies stay in cache and in the heap.
_CPU_TOKENS, _DEVICE_TOKENS = 2**12, 2**20


def tokens_at_a_time(device: torch.device) -> int:
    """Tell of how many tokens copies are made in one go."""
    return _CPU_TOKENS if device.type == "cpu" else _DEVICE_TOKENS


class Cut:
    """How tokens in hash order are cut into chunks of `chunk` places: alike in all rounds of all sequences.

    Where the last chunk is not full, its last places are empty. A chunk sees itself and the one before (equation 5);
    the first one sees only itself.
    """

    def __init__(self, tokens: int, chunk: int, *, device: torch.device) -> None:
        self.tokens, self.chunk, self.chunks = tokens, chunk, -(-tokens // chunk)
        place_N = torch.arange(tokens, device=device)
        self.chunk_N, self.within_N = place_N // chunk, place_N % chunk
        self.next_chunk_N = (self.chunk_N + 1) % self.chunks

    def runs(self, sequences: int) -> list[slice]:
        """Cut the chunks of some sequences into runs whose copies stay small."""
        few = max(1, tokens_at_a_time(self.chunk_N.device) // (sequences * self.chunk))
        return [slice(first, min(first + few, self.chunks)) for first in range(0, self.chunks, few)]

    def full_mask(self, like: Tensor) -> Tensor:
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
        self.sequence_X1 = torch.arange(len(order_XN), device=order_XN.device)[:, None]
        self.row_XP = self.token_XP.clamp(max=cut.tokens - 1) + self.sequence_X1 * cut.tokens

    def in_order(self, x_XND: Tensor, run: slice) -> Tensor:
        """Copy rows into the places of some chunks: [X, C, M, D]. An empty place is given some row."""
        rows = self.row_XP[:, self._around(run)][:, self.cut.chunk :].reshape(-1)
        return x_XND.flatten(0, 1).index_select(0, rows).view(len(x_XND), -1, self.cut.chunk, x_XND.shape[2])

    def windows(self, x_XND: Tensor, run: slice) -> Tensor:
        """Copy rows likewise and give each chunk after the one before: overlapping views of one copy, [X, C, W, D]."""
        row_XP = self.row_XP[:, self._around(run)]
        x_XPD = x_XND.flatten(0, 1).index_select(0, row_XP.reshape(-1)).view(*row_XP.shape, -1)
        return x_XPD.unfold(1, 2 * self.cut.chunk, self.cut.chunk).mT

    def causal_mask(self, dtype: torch.dtype, run: slice) -> Tensor:
        """Hide from each token what does not come before it: later tokens, itself, empty places. [X, C, M, W].

        By arithmetic, as comparing and choosing takes five times as long.
        """
        number_XP = self.token_XP[:, self._around(run)].to(torch.promote_types(dtype, torch.float32))
        seen_XCW = number_XP.unfold(1, 2 * self.cut.chunk, self.cut.chunk)
        before_XCM = seen_XCW[..., self.cut.chunk :] - 1
        hidden_XCMW = (before_XCM[..., None] - seen_XCW[..., None, :]).clamp_(-1, 0)
        return hidden_XCMW.mul_(-masked(dtype)).to(dtype)

    def of_queries(self, x_XCMD: Tensor) -> Tensor:
        """Give, for each token, the row of x where it stands as a query: [Z, 1]."""
        return self._rows(x_XCMD, self.cut.chunk_N, self.cut.within_N)

    def of_keys(self, x_XCWD: Tensor) -> Tensor:
        """Give, for each token, the rows of x where it stands as a key, in its own chunk and in the next: [Z, 2].

        The last chunk has no next one: the empty places before the first chunk, which are given no weight, stand in.
        """
        own_Z1 = self._rows(x_XCWD, self.cut.chunk_N, self.cut.within_N + self.cut.chunk)
        next_Z1 = self._rows(x_XCWD, self.cut.next_chunk_N, self.cut.within_N)
        return torch.cat([own_Z1, next_Z1], dim=1)

    def _around(self, run: slice) -> slice:
        """Give the places of some chunks and of the one before them."""
        return slice(run.start * self.cut.chunk, (run.stop + 1) * self.cut.chunk)

    def _rows(self, x: Tensor, chunk_N: Tensor, within_N: Tensor) -> Tensor:
        """Give rows as numbered in memory, as the fused kernel's gradients are laid out otherwise than its output."""
        features = x.shape[3]
        per_sequence, per_chunk, per_place = (stride // features for stride in x.stride()[:3])
        row_N = chunk_N * per_chunk + within_N * per_place + x.storage_offset() // features
        row_XN = row_N + self.sequence_X1 * per_sequence
        return torch.empty_like(self.order_XN).scatter_(1, self.order_XN, row_XN).view(-1, 1)


def sum_rows(x: Tensor, rows_ZR: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Sum some rows of x, numbered as they lie in memory, for each token, weighted or not, in one pass: [Z, D]."""
    in_memory = x.as_strided((x.numel() // x.shape[-1], x.shape[-1]), (x.shape[-1], 1))
    return embedding_bag(rows_ZR, in_memory, per_sample_weights=weights, mode="sum")


def masked(dtype: torch.dtype) -> float:
    """Give what is added to a hidden score: so low that nothing else counts, and finite (the paper's -1e5).

    Where every key is hidden the log-sum-exp is then about this, and no difference of infinities makes a NaN.
    """
    return torch.finfo(dtype).min / 2
