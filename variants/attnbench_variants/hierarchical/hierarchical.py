"""Hierarchical attention: near keys one by one, far ones in clusters that grow with their distance.

Zhu and Soricut 2021, "H-Transformer-1D: Fast One-Dimensional Hierarchical Attention for Sequences":

    out_i = sum_lc w_lc size(c) mean(v_c) / sum_lc w_lc size(c),   w_lc = exp(mean(q_c') . mean(k_c) / sqrt(D))

over levels l and the clusters c of 2^l positions whose block is the same as, or next to, that of the query's cluster c'
at level l, but not at level l - 1. At each level clusters are in blocks of N_r; level 0 are the positions themselves,
exactly. What a cluster of queries reads is the same for all of its positions. Sequences of up to two blocks are
attended to exactly. Time and memory: O(N D). There is no cross-attention, decoding or window.

Where the paper leaves a choice, or its code differs:

- Causally the query of a cluster is that of its first position, as in the authors' code: a mean would hold later ones.
  Positions within a cluster do not differ in what they read beyond the level below.
- Overlaps of a level with the one below are left out of the former, as in the authors' code.
- Coarse results are carried to positions as they are (piecewise constant, as in the paper); the code can also
  interpolate linearly, which would carry later results to earlier positions.
- A length need not be N_r times a power of two: clusters at the end may be short, and means are those of the positions
  that there are. The code fills up and takes means of means.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; X = B * H, N positions (= T = S) or clusters

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support, Tune, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.lse_kernels import kernel_for
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.hierarchical.levels import attend_at_level, clusters_at_levels, far_clusters, levels


class Hierarchical:
    """H-Transformer-1D (Zhu and Soricut 2021): the matrix of weights as a hierarchical matrix."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's numerical rank is 16 in its experiments."""

        block: Annotated[
            int, Meta(ge=2, multiple_of=2, description="positions or clusters of a block at each level (N_r), even")
        ] = 16

    tunes: ClassVar = {"block": Tune("8..1024")}
    supports = Support(
        passes=("forward", "backward", "forward-backward"),
        window="its near field is its own: set block instead",
        cross="a coarse query stands for its whole cluster, so that queries and keys are the positions of one sequence",
        grouped=True,
        growth=1,
        spans=("block",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        if case.passes == "decode":
            raise Unsupported("a coarse query is that of its cluster's first position, which one query alone is not")
        self._block, self._causal = options.block, case.mask.causal
        self.backend = kernel_for(torch.device(case.device)).name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads, block, causal = q_BHTD.shape[1], self._block, self._causal
        q_XND, k_XND, v_XND = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        *finer, coarse = [
            attend_at_level(level, near=number == 0, block=block, causal=causal)
            for number, level in enumerate(levels(q_XND, k_XND, v_XND, block=block, causal=causal))
        ]
        for fine in reversed(finer):
            coarse = _merged(fine, coarse)
        return coarse[0].to(q_BHTD.dtype).view(q_BHTD.shape)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys in a query's block and its neighbours, and of far clusters."""
        block = msgspec.convert(case.options, Hierarchical.Options).block
        return share_seen(
            case,
            lambda i, j: (i // block - j // block).abs() <= 1,
            further=lambda i: far_clusters(i, case.shape.seq_k, block=block, causal=case.mask.causal),
        )

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: three blocks of keys for each block of queries and level."""
        block = msgspec.convert(case.options, Hierarchical.Options).block
        blocks = sum(-(-clusters // block) for clusters in clusters_at_levels(case.shape.seq_q, block))
        return executed_pairs(blocks * 3 * block**2, case)


Result = tuple[torch.Tensor, torch.Tensor]  # out_XND and lse_XN


def _merged(fine: Result, coarse: Result) -> Result:
    """Merge a level's result with that of all coarser ones, of which each cluster's is for both of its halves."""
    out_XND, lse_XN = fine
    of_both = (x.repeat_interleave(2, dim=1)[:, : lse_XN.shape[1]] for x in coarse)
    coarse_XND, coarse_XN = of_both
    total_XN = torch.logaddexp(lse_XN, coarse_XN)
    share_XN1, coarse_share_XN1 = ((x - total_XN).exp()[..., None] for x in (lse_XN, coarse_XN))
    return out_XND * share_XN1 + coarse_XND * coarse_share_XN1, total_XN
