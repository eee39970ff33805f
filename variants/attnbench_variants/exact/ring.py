"""Ring attention: blocks of keys and values pass by the queries, and their shares of one softmax are merged.

Liu, Zaharia, Abbeel 2023, "Ring Attention", algorithm 1, for the blocks r of keys of a ring of devices:

    out_r = softmax(s_r) v_r,   L_r = logsumexp(s_r),   s_r = q k_r^T / sqrt(D)            s_r [T, S / ranks]
    out = sum_r exp(L_r - L) out_r,   L = logsumexp_r(L_r)

Each of `ranks` devices would hold one block of the sequence; keys and values travel around the ring. Here all ranks are
on one device: the arithmetic of the ring, with no messages to wait for and no overlap of them. What it costs above
`flash` is what the blocks cost. A block passes all queries at once, which is the same sum in another order.

Causally, blocks that lie wholly ahead of a rank's queries are skipped; the work is not spread evenly over ranks as in
striped attention. Queries are the last T positions of the keys; with fewer than `ranks` keys there are as many blocks
as keys. The gradient goes around the ring once more, with the merged log-sum-exps. Time: O(T S D). Memory beyond the
output: O(T), as the paper's per device; elsewhere than on a CPU the scores of a block are materialised besides, B * H *
T * S / ranks of them. There is no window: each block that passes would need a mask of its own.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

from typing import Annotated

import torch
from msgspec import Meta

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed_visible
from attnbench_variants.blocks.lse_kernels import Chunks, kernel_for
from attnbench_variants.blocks.merging import attend_in_parts
from attnbench_variants.exact.key_blocks import key_blocks


class Ring:
    """Exact attention in the blocks of a ring of devices (Liu, Zaharia, Abbeel 2023, "Ring Attention", algorithm 1)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The size of the ring."""

        ranks: Annotated[int, Meta(ge=1, description="devices of the ring, simulated: blocks of keys and values")] = 4

    supports = Support(
        devices=("cpu", "cuda"),
        window="the blocks that pass know a causal mask only: a window would take a mask of its own for each",
        grouped=True,
        exact=True,
        growth=2,
    )

    def __init__(self, case: Case, options: Options) -> None:
        self._blocks = min(options.ranks, case.shape.seq_k)
        self._kernel = kernel_for(torch.device(case.device))
        # A single query is the last position and sees every key.
        self._causal = case.mask.causal and case.shape.seq_q > 1
        self.backend = self._kernel.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        whole = Chunks(q_BHTD, k_BGSD, v_BGSD, causal=self._causal, scale=q_BHTD.shape[3] ** -0.5)
        parts = list(key_blocks(whole, blocks=self._blocks))
        return attend_in_parts(parts, queries=q_BHTD.shape[2], kernel=self._kernel).view(q_BHTD.shape)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: the visible pairs, as kernels skip the others."""
        return executed_visible(case)
