"""Uniform attention: a query gets the mean of the values that it may see. The floor of every figure of quality.

Not of a paper; it is what exact attention returns where all scores are equal:

    out_i = mean of v_j over the visible keys j

A mechanism that errs by as much has lost all that queries and keys say. Queries are the last T positions of the keys.
Sums are differences of prefix sums, in float64 so that late means are as exact as early ones. Time and memory: O(S D).
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

import torch

from attnbench import Case, Support
from attnbench_variants.blocks.flop_counts import executed_with
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.reach import all_keys


class Uniform:
    """Mean of the visible values: what exact attention returns where all scores are equal; a floor, not of a paper."""

    supports = Support(devices=("cpu", "cuda"), window=True, grouped=True, growth=1)
    reach = staticmethod(all_keys)
    backend = f"torch {torch.__version__.partition('+')[0]}"

    def __init__(self, case: Case) -> None:
        shape, mask = case.shape, case.mask
        i_T = torch.arange(shape.seq_k - shape.seq_q, shape.seq_k, device=case.device)
        reach = mask.window or shape.seq_k + shape.seq_q
        self.first_T = (i_T - reach + 1).clamp(0, shape.seq_k)
        self.stop_T = (i_T + (1 if mask.causal else reach)).clamp(0, shape.seq_k)

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Average: out_BHTD."""
        del k_BGSD
        sums_BGSD = torch.nn.functional.pad(v_BGSD.double().cumsum(dim=2), (0, 0, 1, 0))
        within_BGTD = sums_BGSD[:, :, self.stop_T] - sums_BGSD[:, :, self.first_T]
        out_BGTD = within_BGTD / (self.stop_T - self.first_T)[:, None]
        return per_query_head(out_BGTD.to(q_BHTD.dtype), q_BHTD.shape[1])

    @staticmethod
    def flops(case: Case) -> int:
        """Count the additions and divisions, as there are no products: a prefix sum, a difference and a mean."""
        shape = case.shape
        forward, backward = shape.seq_k + 2 * shape.seq_q, 2 * shape.seq_k + 2 * shape.seq_q
        return shape.batch * shape.kv_heads * shape.head_dim * executed_with(forward, backward, case)
