"""Talking-heads attention: heads are mixed with one another, before and after the softmax.

Shazeer et al. 2020, "Talking-Heads Attention":

    out_h = sum_g P_w[g, h] softmax(sum_f P_l[f, g] q_f k_f^T / sqrt(D)) v_h          P_l, P_w [H, H], learned

With both the identity it is exact attention. As many heads before, within and behind the softmax (h_k = h = h_v).
Scores are divided by sqrt(D), as in exact attention (the paper folds that into the queries' projection). The paper
names no start for the matrices: here the identity plus normals of deviation 0.1 / sqrt(H), drawn from the case's seed.
Queries are the last T positions. Time: O(T S H (D + H)). Scores are made for a block of queries at a time; memory: O(H
S) for each query of the block, or of all queries where gradients are wanted.
"""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, C queries of a block
from collections.abc import Iterator

import torch

from attnbench import Case, Support
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.masks import visible_keys
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.blocks.weights import generator, learned, normal

# Scores of a block of queries: on a CPU they stay in the cache, unless that left too few queries for fast products.
_CPU_SCORES, _DEVICE_SCORES = 2**20, 2**28
_LEAST_ROWS = 32


class TalkingHeads(torch.nn.Module):
    """Talking-heads attention: softmax(P_l q k^T) P_w v, with learned H x H matrices (Shazeer et al. 2020)."""

    supports = Support(window=True, grouped=True, growth=2)
    reach = staticmethod(all_keys)
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._mask = case.mask
        draws = generator(case)
        self.mix_scores, self.mix_weights = (_mixture(case, draws) for _ in range(2))

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads, queries, keys = q_BHTD.shape[1], q_BHTD.shape[2], k_BGSD.shape[2]
        k_BHSD, v_BHSD = (per_query_head(x, heads) for x in (k_BGSD, v_BGSD))
        scaled_BHTD = q_BHTD * q_BHTD.shape[3] ** -0.5
        parts = []
        for rows in _blocks(q_BHTD, keys):
            seen = slice(0, keys - queries + rows.stop if self._mask.causal else keys)
            visible = visible_keys(self._mask, queries=queries, keys=keys, device=q_BHTD.device, rows=rows)
            visible_CS = None if visible is None else visible[:, seen]
            parts.append(self._attend(scaled_BHTD[:, :, rows], k_BHSD[:, :, seen], v_BHSD[:, :, seen], visible_CS))
        return torch.cat(parts, dim=2)

    def _attend(
        self, q_BHCD: torch.Tensor, k_BHSD: torch.Tensor, v_BHSD: torch.Tensor, visible_CS: torch.Tensor | None
    ) -> torch.Tensor:
        scores_BHCS = _mixed(self.mix_scores, q_BHCD @ k_BHSD.transpose(2, 3))
        if visible_CS is not None:
            scores_BHCS = scores_BHCS.masked_fill(visible_CS.logical_not(), float("-inf"))
        weights_BHCS = _mixed(self.mix_weights, scores_BHCS.softmax(dim=-1))
        return weights_BHCS @ v_BHSD

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: scores and values, and the two mixtures of all pairs."""
        shape = case.shape
        pairs = shape.batch * shape.heads * shape.seq_q * shape.seq_k
        return executed(4 * pairs * (shape.head_dim + shape.heads), case)


def _mixed(mixture_HH: torch.Tensor, x_BHCS: torch.Tensor) -> torch.Tensor:
    """Return the mixture of heads y_h = sum_g x_g P_gh."""
    return (mixture_HH.mT @ x_BHCS.flatten(2)).view_as(x_BHCS)


def _mixture(case: Case, generator: torch.Generator) -> torch.nn.Parameter:
    heads = case.shape.heads
    noise_HH = normal(heads, heads, deviation=0.1 / heads**0.5, generator=generator)
    return learned(case, torch.eye(heads, dtype=torch.float64) + noise_HH)


def _blocks(q_BHTD: torch.Tensor, keys: int) -> Iterator[slice]:
    batch, heads, queries, _ = q_BHTD.shape
    most = _CPU_SCORES if q_BHTD.device.type == "cpu" else _DEVICE_SCORES
    rows = max(_LEAST_ROWS, most // (batch * heads * keys))
    return (slice(first, min(first + rows, queries)) for first in range(0, queries, rows))
