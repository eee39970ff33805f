"""Scaled dot-product attention as its equation stands: the whole matrix of scores is made.

Vaswani et al. 2017, "Attention Is All You Need", eq. 1:

    out = softmax(q k^T / sqrt(D)) v                            q [T, D], k, v [S, D]; scores [T, S]

Queries are the last T positions of the keys. A window of w leaves a causal query its last w keys, itself included; a
non-causal one all keys with |i - j| < w. Time: O(T S D). Memory: one matrix of B * H * T * S scores without gradients,
two with.
"""
# B batch, H heads, G key/value heads, R query heads of a group, T queries, S keys, D head dimension, X = B * G

import torch

from attnbench import Case, Support
from attnbench_variants.blocks.flop_counts import executed_densely
from attnbench_variants.blocks.fused_kernels import TORCH
from attnbench_variants.blocks.masks import visible_keys


class Vanilla:
    """Scaled dot-product attention, scores materialised: softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, eq. 1)."""

    supports = Support(window=True, grouped=True, exact=True, growth=2)
    backend = f"torch-matmul {TORCH}"
    weight_dropout = 0.0

    def __init__(self, case: Case) -> None:
        self._mask = case.mask

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        batch, heads, queries, dim = q_BHTD.shape
        groups, keys = k_BGSD.shape[1:3]
        shared = heads // groups
        # The query heads of a group are rows against the same keys, so that grouped keys need not be copied.
        q_XRTD = (q_BHTD * dim**-0.5).reshape(batch * groups, shared * queries, dim)
        scores = torch.bmm(q_XRTD, k_BGSD.reshape(batch * groups, keys, dim).transpose(1, 2))
        visible = visible_keys(self._mask, queries=queries, keys=keys, device=scores.device)
        if visible is not None:
            with torch.no_grad():  # softmax gives what is masked no gradient by itself; autograd would copy all for it
                scores.view(-1, queries, keys).masked_fill_(visible.logical_not_(), float("-inf"))
        weights = _softmax(scores)
        if self.weight_dropout:
            weights = torch.dropout(weights, self.weight_dropout, train=True)
        out = torch.bmm(weights, v_BGSD.reshape(batch * groups, keys, -1))
        return out.view(batch, heads, queries, -1)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every pair of query and key, seen or not."""
        return executed_densely(case)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Normalise rows; in place where no gradient is needed, which spares a second matrix (each row is read first)."""
    if scores.requires_grad:
        return torch.softmax(scores, dim=-1)
    return torch.softmax(scores, dim=-1, out=scores)
