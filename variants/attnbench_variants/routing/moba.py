"""Mixture of block attention (MoBA): each query chooses, by its score with mean keys, the few blocks it attends to.

Lu et al. 2025, "MoBA: Mixture of Block Attention for Long-Context LLMs", section 2.2, eqs. 2 to 6:

    s_in = q_i . mean(k_n)                                  n a block of keys
    B(i) = {own block of i} and the topk - 1 earlier blocks n of the largest s_in
    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j        over the j in the blocks B(i), causally j <= i

The choice is hard: no gradient flows through it. With topk = all blocks it is exact attention. The last block may be
short. Queries are the last T positions of the keys.

- Means and products are taken in float32 whatever the dtype (the authors' code: products), so that all dtypes choose
  alike.
- The paper is causal. Without causality all other blocks can be chosen, later ones too: the same rule, not theirs.
- Grouped heads: each query head chooses for itself.
- The defaults are those of the paper's scaling experiments at 8k tokens (section 3.1); its models of 1M tokens have
  block=4096,topk=12.

Time: O(T topk block D) and O(T S D / block) for the products, 1 / (topk block^2) of exact attention's share: a
hundredth of the rest at 16k tokens with the defaults. Below topk blocks it costs what exact attention costs. Memory:
O(T topk + S D).
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = B * H, N blocks of keys, K chosen ones

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.nn.functional import pad

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.lse_kernels import kernel_for
from attnbench_variants.blocks.masks import require_queries_last
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.routing.chosen_blocks import Blocks, attend_to_blocks

# Scores of queries with blocks at a time: on a CPU they stay in its cache; elsewhere few launches count.
_CPU_SCORES, _DEVICE_SCORES = 2**20, 2**26


class Moba:
    """Mixture of Block Attention (Lu et al. 2025, "MoBA", section 2.2, equations 2 to 6)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The blocks, and the number that a query attends to."""

        block: Annotated[int, Meta(ge=1, description="keys of a block")] = 512
        topk: Annotated[int, Meta(ge=1, description="blocks that a query attends to, its own included")] = 3

    tunes: ClassVar = {"block": Tune("32..512"), "topk": Tune("1..32")}
    supports = Support(
        window="which blocks are seen is chosen by their keys, not by a window of positions",
        grouped=True,
        synchronises=True,
        growth=1,
        spans=("block",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        require_queries_last(case)
        self._blocks = _blocks(case, options)
        self._chosen = min(options.topk, self._blocks.total) - 1
        self.backend = kernel_for(torch.device(case.device)).name

    def __call__(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor) -> Tensor:
        """Attend: out_BHTD. Gradients go to q, k and v of the chosen blocks."""
        heads = q_BHTD.shape[1]
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        choice_XTK = self.choose(q_XTD, k_XSD)
        return attend_to_blocks(q_XTD, k_XSD, v_XSD, choice_XTK=choice_XTK, blocks=self._blocks).view(q_BHTD.shape)

    @torch.no_grad()
    def choose(self, q_XTD: Tensor, k_XSD: Tensor) -> Tensor:
        """Choose blocks besides a query's own by q . mean(k) (equations 5 and 6): int64 [X, T, K], N for none."""
        means_XND = _means(k_XSD, self._blocks)
        most = _CPU_SCORES if q_XTD.device.type == "cpu" else _DEVICE_SCORES
        rows = max(1, most // (len(q_XTD) * self._blocks.total))
        parts = (slice(first, first + rows) for first in range(0, q_XTD.shape[1], rows))
        return torch.cat([self._choose(q_XTD[:, part].float(), means_XND, part.start) for part in parts], dim=1)

    def _choose(self, q_XTD: Tensor, means_XND: Tensor, first: int) -> Tensor:
        size, queries, keys, causal, _ = self._blocks
        position_T1 = torch.arange(first, first + q_XTD.shape[1], device=q_XTD.device)[:, None] + keys - queries
        own_T1, block_N = position_T1 // size, torch.arange(means_XND.shape[1], device=q_XTD.device)
        barred_TN = block_N >= own_T1 if causal else block_N == own_T1
        gate_XTN = (q_XTD @ means_XND.mT).masked_fill_(barred_TN, -torch.inf)
        top = gate_XTN.topk(self._chosen, dim=-1, sorted=False)
        return top.indices.masked_fill_(top.values == -torch.inf, len(block_N))

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys in a query's own block and the chosen ones."""
        options = msgspec.convert(case.options, Moba.Options)
        block = options.block
        return share_seen(case, lambda i, j: i // block == j // block, further=(options.topk - 1) * block)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: queries with mean keys, and with the keys of their blocks.

        A chosen block counts as a whole one.
        """
        options, shape = msgspec.convert(case.options, Moba.Options), case.shape
        blocks, pairs = _blocks(case, options), 0
        for rows, keys in blocks.own():
            queries, others = rows.stop - rows.start, keys.start // options.block if case.mask.causal else blocks.total
            hidden = queries * (queries - 1) // 2 if case.mask.causal else 0
            pairs += queries * (keys.stop - keys.start) - hidden
            pairs += queries * min(options.topk - 1, others, blocks.total - 1) * options.block
        each = 2 * shape.batch * shape.heads * shape.head_dim
        gate = 0 if case.passes == "backward" else each * shape.seq_q * blocks.total
        return gate + executed(2 * each * pairs, case, scores="recomputed")


def _blocks(case: Case, options: Moba.Options) -> Blocks:
    shape = case.shape
    return Blocks(options.block, shape.seq_q, shape.seq_k, case.mask.causal, shape.head_dim**-0.5)


def _means(k_XSD: Tensor, blocks: Blocks) -> Tensor:
    """Average each block's keys, in float32: [X, N, D]."""
    filled = pad(k_XSD, (0, 0, 0, -blocks.keys % blocks.size))
    sums_XND: Tensor = filled.unflatten(1, (-1, blocks.size)).sum(dim=2, dtype=torch.float32)
    sums_XND[:, :-1] /= blocks.size
    sums_XND[:, -1] /= blocks.keys - (blocks.total - 1) * blocks.size
    return sums_XND
